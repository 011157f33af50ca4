"""What the boxes depend on: the settings, their choice, and what the network has learned."""
