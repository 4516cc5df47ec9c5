"""Frozen-backbone measurements; one protocol per file, found by its file name."""
