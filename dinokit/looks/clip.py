"""A look at a moving picture, frame by frame: colours that do not flicker, memory that does not follow the length.

A look is fitted once, to evenly spaced frames of the whole clip, and then paints every frame: equal frames come out
equal. The frames are read thrice - counted, fitted to, painted - and held one at a time, but for those of the fit.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from dinokit.core.messages import UserError, progress
from dinokit.core.order import evenly
from dinokit.images.film import frames
from dinokit.looks import attention
from dinokit.looks.field import Field, Paint, bare, field
from dinokit.looks.sheet import Row, rows_of
from dinokit.models.features import Backbone

SAMPLE = 24  # frames that a look is fitted to


def painted(
    look: ModuleType, backbones: Mapping[str, Backbone], file: Path, config: Any, *, size: int | None = None
) -> Iterator[tuple[list[Row], float]]:
    """Yield the rows of a sheet for every frame, and the milliseconds it is shown.

    Args:
        look: pca, similarity, attention or clusters; marks are in the first frame.
        backbones: by the name that stands above its column.
        size: see `field`.
    """
    total = sum(1 for _ in frames(file))
    chosen = set(evenly(SAMPLE, total).tolist())
    fitted: dict[str, tuple[Paint, dict[int, Field]]] = {}
    for name, backbone in backbones.items():
        if look is attention:
            image, _ = next(frames(file, channels=backbone.channels))
            attention.check(bare(image, patch_size=backbone.patch_size, name=file.name, size=size))
        moving = enumerate(frames(file, channels=backbone.channels))
        kept = {
            number: field(backbone, image, name=file.name, size=size)
            for number, (image, _) in moving
            if number in chosen
        }
        fitted[name] = look.fit(backbone, list(kept.values()), config), kept
    together = zip(*(frames(file, channels=each.channels) for each in backbones.values()), strict=True)
    size_of_all = None
    for number, images in enumerate(progress(together, total)):
        fields, maps = [], {}
        for (name, backbone), (image, _) in zip(backbones.items(), images, strict=True):
            paint, kept = fitted[name]
            fields.append(kept.get(number) or field(backbone, image, name=file.name, size=size))
            maps[name] = [paint(fields[-1])]
        size_of_all = size_of_all or fields[0].size
        if fields[0].size != size_of_all:
            raise UserError(f"frame {number} of {file} has another size than those before; a clip has one")
        yield rows_of(fields[:1], maps), images[0][1]
