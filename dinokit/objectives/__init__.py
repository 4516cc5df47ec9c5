"""Training objectives: one file each, found by its name (see `base.find`)."""
