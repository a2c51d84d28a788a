"""Training of the embedded feature network; nothing here runs in a service."""
