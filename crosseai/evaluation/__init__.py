"""How well the boxes found fit the radiologists' boxes."""
