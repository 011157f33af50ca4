"""Data: the release, its phantom, the split by patient and the image cache."""
