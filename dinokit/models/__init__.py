"""Backbones and projection heads: images in, Features out; nothing here knows crops, losses or files."""
