"""What is looked at: files and sources by name; in Python also Pillow's images, arrays and tensors."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy
from torch import Tensor

from dinokit.core.messages import BadImage, UserError, warn
from dinokit.images import intensity
from dinokit.images.film import is_film
from dinokit.models.features import Backbone, Picture, decoded
from dinokit.sources.location import is_image
from dinokit.sources.source import open_source, thinned


def listed(images: Picture | Sequence[Picture]) -> list[Picture]:
    """Return one or several pictures as a list; an array of four axes is several."""
    several = [images] if isinstance(images, Picture) else [*images]
    found = list[Picture]()
    for each in several:
        found += [*each] if isinstance(each, numpy.ndarray | Tensor) and each.ndim == 4 else [each]
    if not found:
        raise UserError("no image is given; give files, a folder, or in Python pictures and arrays")
    return found


def film_among(images: Sequence[Picture]) -> Path | None:
    """Return the film that is to be looked at, or None; UserError if it is not alone.

    Of animations among several images the first frame counts, as everywhere.
    """
    for each in images:
        if isinstance(each, str | Path) and Path(each).is_file() and (len(images) == 1 or not is_image(str(each))):
            film = Path(each)
            if is_film(film) and len(images) > 1:
                raise UserError(f"{film} is a film and is looked at alone, got {len(images)} words")
            if is_film(film):
                return film
    return None


def read(backbone: Backbone, images: Sequence[Picture], *, count: int) -> Iterator[tuple[str, intensity.Image]]:
    """Yield the name and the pixels of every image; those of a source that cannot be read are passed over.

    Args:
        backbone: whose channels and white count.
        count: images of a source, at most, evenly spaced.
    """
    channels, white = backbone.channels, backbone.pixels.white
    for number, each in enumerate(images, start=1):
        if not isinstance(each, str | Path):
            name = Path(str(getattr(each, "filename", "") or f"image {number}")).name
            yield name, decoded(each, channels=channels, white=white)
        elif is_image(str(each)) and Path(each).is_file():
            yield Path(each).name, decoded(each, channels=channels, white=white)
        else:
            source = thinned(open_source(str(each), channels=channels, white=white), count)
            for index in range(len(source)):
                try:
                    image = source.read(index)
                except BadImage as error:
                    warn(f"{source.key(index)} is passed over: {error}")
                    continue
                yield source.key(index).rpartition("/")[2], image
