"""Training of the embedded segmentation network; nothing here runs in a service."""
