"""Boxes around chest X-ray findings, learned from image-level labels alone."""

__version__ = "0.1.0"
