"""Dense predictions on frozen patches: what segmentation, depth and foreground share."""
