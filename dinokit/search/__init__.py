"""An index of images on disk: what is most like an image, and which of them are nearly the same."""
