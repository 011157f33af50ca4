"""Table 1, the figures and the report page."""
