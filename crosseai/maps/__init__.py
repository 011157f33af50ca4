"""Explanation maps: where in the image the evidence for a label lies."""
