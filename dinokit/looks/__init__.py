"""What a network sees of images, as pictures: one file per look, found by its name."""
