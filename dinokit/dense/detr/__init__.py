"""A detector on frozen features: what it sees of an image, the network, what it learns from, what it finds."""
