"""A web page on this machine where one points at patches: what a network sees, asked from a browser."""
