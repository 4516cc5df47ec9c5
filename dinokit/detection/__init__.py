"""Detectors on frozen features: what is computed of an image, the decoder, what it learns from, what it finds."""
