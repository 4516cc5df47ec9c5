"""Copies as the web makes them: planted in a pile, and other ones than those that threshold "auto" makes for itself."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

ALTERED = ("resized", "encoded", "cropped", "blurred", "watermarked", "mirrored")
LEAST = 12  # pixels of the shorter side


def altered(image: Image.Image, how: str, draw: np.random.Generator) -> Image.Image:
    """Return a copy as the web makes them; one that is encoded again is so when it is saved."""
    width, height = image.size
    if how == "resized":
        share = draw.uniform(0.4, 0.8)
        return image.resize((max(round(share * width), LEAST), max(round(share * height), LEAST)))
    if how == "cropped":
        kept = np.array([width, height]) * draw.uniform(0.75, 0.95)
        left, top = (draw.random(2) * (np.array([width, height]) - kept)).tolist()
        return image.crop((round(left), round(top), round(left + kept[0]), round(top + kept[1])))
    if how == "blurred":
        return image.filter(ImageFilter.GaussianBlur(draw.uniform(0.5, 1.5)))
    if how == "mirrored":
        return ImageOps.mirror(image)
    if how == "watermarked":
        marked = image.copy()
        ImageDraw.Draw(marked).text((2, draw.uniform(0, max(height - LEAST, 1))), "photo stock", fill=(160, 160, 160))
        return Image.blend(image, marked, 0.7)
    return image
