"""A whole network that learns from labels, with its head."""
