"""Maps in, boxes out."""
