"""Masks that follow a photo's edges: guided filter, fully connected CRF, speckles."""
