"""The findings by name."""

__all__ = ["CHESTX_RAY8", "TABLE_1"]

#: The eight findings of ChestX-ray8 that carry boxes (Wang et al. 2017), alphabetical.
CHESTX_RAY8 = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
)

#: The six rows of Table 1.
TABLE_1 = CHESTX_RAY8[:6]
