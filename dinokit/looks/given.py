"""What is looked at: files and sources by name; in Python also Pillow's images, arrays and tensors."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy
from torch import Tensor

from dinokit.core.messages import BadImage, UserError, warn
from dinokit.images import intensity
from dinokit.images.film import is_film
from dinokit.looks.field import TooLong
from dinokit.models.features import Backbone, Picture, decoded
from dinokit.sources.location import is_image
from dinokit.sources.source import open_source, thinned

Ready = TypeVar("Ready")


def listed(images: Any) -> list[Picture]:
    """Return one or several pictures as a list; an array of four axes is several. UserError if it is none."""
    if not isinstance(images, Picture | Iterable):
        raise UserError(f"expected a file, a folder, a picture or an array, or a list, got a {type(images).__name__}")
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


def read(
    backbone: Backbone, images: Sequence[Picture], ready: Callable[[intensity.Image, str], Ready], *, count: int
) -> list[Ready]:
    """Return what is made of every image; those of a source that cannot be read, or are too long, are passed over.

    Args:
        backbone: whose channels and white count.
        ready: takes pixels and a name; may raise TooLong.
        count: images of a source, at most, evenly spaced.

    Raises:
        UserError: if an image that is named cannot be read or is too long, or no image is left.
    """
    channels, white, found = backbone.channels, backbone.pixels.white, list[Ready]()
    left = UserError("no image can be read; give others")
    for number, each in enumerate(images, start=1):
        if not isinstance(each, str | Path):
            name = Path(str(getattr(each, "filename", "") or f"image {number}")).name
            found.append(ready(decoded(each, channels=channels, white=white), name))
        elif is_image(str(each)) and Path(each).is_file():
            found.append(ready(decoded(each, channels=channels, white=white), Path(each).name))
        else:
            source = thinned(open_source(str(each), channels=channels, white=white), count)
            for index in range(len(source)):
                try:
                    found.append(ready(source.read(index), source.key(index).rpartition("/")[2]))
                except (BadImage, TooLong) as error:
                    warn(f"{source.key(index)} is passed over: {error}")
                    left = error if isinstance(error, TooLong) else left
    if not found:
        raise left
    return found
