"""Segmentation service: photo in, label map and soft masks out."""
