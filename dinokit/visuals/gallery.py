"""The images a report shows, read once and prepared once, and which others each stage of a model finds like them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from dinokit.checkpoints.load import load
from dinokit.core import device as devices
from dinokit.core.messages import BadImage, UserError
from dinokit.core.order import in_turns
from dinokit.core.seed import generator
from dinokit.features.embedding import encode, nearest, unit
from dinokit.images import intensity
from dinokit.images.intensity import multiple, prepare
from dinokit.sources.source import Source, labelled, open_source, splits
from dinokit.visuals.page import LOSSLESS, data_uri, picture
from dinokit.visuals.plot import number

SHOWN = 8  # pictures
ASKED = 6  # of these, pictures whose neighbours are shown
NEIGHBOURS = 6
SEARCHED = 2000  # images that neighbours are looked for in, at most, and
SEARCHED_PATCHES = 128_000  # patches of all of them together: bounds the time of a report
NATIVE = 224  # pixels; side for models without one of their own
BATCH = 64


@dataclass(frozen=True)
class Images:
    """Prepared square pictures and what is known of them."""

    pixels: intensity.Images
    keys: tuple[str, ...]
    labels: Int64[numpy.ndarray, " image"] | None
    classes: tuple[str, ...]
    indices: tuple[int, ...]  # places in the source

    def label(self, row: int) -> str:
        """Return the class of an image, empty if unknown."""
        return "" if self.labels is None else self.classes[int(self.labels[row])]

    def name(self, row: int) -> str:
        """Return what a caption says: the class, or else the name of the file."""
        return self.label(row) or self.keys[row].rsplit("/", 1)[-1]

    def picture(self, row: int) -> UInt8[Tensor, "height width channel"]:
        """Return an image as a screen can show it."""
        return intensity.for_display(self.pixels[[row]])[0].permute(1, 2, 0)


@dataclass(frozen=True)
class Pictures:
    """The images that are shown, and those in which their neighbours are looked for."""

    shown: Images
    searched: Images
    same_source: bool  # the shown images are among the searched; an image is not its own neighbour
    side: int
    patch_size: int


@dataclass(frozen=True)
class Stage:
    """What one checkpoint finds like the pictures."""

    step: int
    neighbours: Int64[Tensor, "query neighbour"]  # rows of the searched images


def without_broken(checkpoints: Mapping[int, Path]) -> tuple[dict[int, Path], list[str]]:
    """Return the checkpoints up to the last one that can be opened, and a line for each after it.

    Args:
        checkpoints: by step.

    Raises:
        UserError: if there are some and none can be opened.
    """
    left, left_out = dict(sorted(checkpoints.items())), list[str]()
    while left:
        step = max(left)
        try:
            load(left[step])
        except UserError as error:
            if len(left) == 1:
                raise
            left_out.append(f"Step {number(step)} is left out: {error}.")
            del left[step]
        else:
            break
    return left, left_out


def choose_pictures(data: str, model: Path) -> Pictures:
    """Open the data again as a model looks at it, and draw pictures with a fixed seed, spread over the classes.

    Data with splits shows test images and searches the training images. Data with domains shows one domain and searches
    the others.

    Raises:
        UserError: if the data is gone or holds too few readable images.
    """
    backbone = load(model)
    known = [name for name in ("test", "val") if name in splits(data)]
    channels, white = backbone.channels, backbone.pixels.white
    searched = labelled(open_source(data, channels=channels, white=white))
    shown = labelled(open_source(data, split=known[0], channels=channels, white=white)) if known else searched
    side = multiple(backbone.pixels.size or NATIVE, backbone.patch_size)
    ours, theirs = numpy.arange(len(shown)), numpy.arange(len(searched))
    if shown.domains is not None:
        ours = numpy.flatnonzero(shown.domains == shown.domains[0])
    if searched.domains is not None:
        others = numpy.flatnonzero(searched.domains != searched.domains[0])
        theirs = others if len(others) else theirs
    drawn = generator(0, 0).permutation(ours)
    if shown.labels is not None:
        drawn = drawn[in_turns(shown.labels[drawn])]
    count = min(SEARCHED, max(2 * ASKED, SEARCHED_PATCHES // (side // backbone.patch_size) ** 2))
    draw = numpy.sort(generator(0, 1).permutation(theirs)[:count])
    return Pictures(
        shown=_read(shown, drawn.tolist(), side=side, patch_size=backbone.patch_size, count=SHOWN),
        searched=_read(searched, draw.tolist(), side=side, patch_size=backbone.patch_size, count=count),
        same_source=not known,
        side=side,
        patch_size=backbone.patch_size,
    )


def find(folder: Path, step: int, pictures: Pictures) -> Stage:
    """Let one checkpoint look for the images that are like the shown ones.

    Raises:
        UserError: if its weights cannot be loaded.
    """
    backbone = load(folder).to(devices.choose("auto"))
    shown, searched = pictures.shown.pixels, pictures.searched.pixels
    place = {index: row for row, index in enumerate(pictures.searched.indices)}
    own = [place.get(index) if pictures.same_source else None for index in pictures.shown.indices[:ASKED]]
    device = backbone.device
    queries, gallery = (
        torch.cat([encode(backbone, part.to(device)).cls.cpu() for part in torch.split(images, BATCH)])
        for images in (shown[:ASKED], searched)
    )
    return Stage(step, neighbours(queries, gallery, own=own, count=NEIGHBOURS))


def neighbours(
    queries: Float[Tensor, "query dim"], gallery: Float[Tensor, "gallery dim"], *, own: Sequence[int | None], count: int
) -> Int64[Tensor, "query neighbour"]:
    """Return the rows of the gallery most similar to each query, most similar first; fewer of a small gallery.

    Args:
        own: the row of the gallery that is the query itself and must not answer, if it is there.
    """
    similarity = unit(queries) @ unit(gallery).T  # [query, gallery]
    for query, row in enumerate(own):
        if row is not None:
            similarity[query, row] = -torch.inf
    available = len(gallery) - any(row is not None for row in own)
    return nearest(similarity, min(count, available))[1]


def photo(images: Images, row: int, *, side: int = 160) -> str:
    """Return an image as an <img> that says what it is."""
    pixels, label = images.picture(row), images.label(row)
    alt = f"{images.keys[row]} ({label})" if label else images.keys[row]
    return picture(data_uri(pixels, side=side), alt=alt, sharp=max(pixels.shape[:2]) <= LOSSLESS)


def _read(source: Source, order: Sequence[int], *, side: int, patch_size: int, count: int) -> Images:
    """Read images in an order until there are enough; those that cannot be read are passed over."""
    pixels: list[Tensor] = []
    indices: list[int] = []
    for index in order:
        if len(indices) == count:
            break
        try:
            pixels.append(prepare(source.read(index, min_side=side), size=side, patch_size=patch_size))
        except BadImage:
            continue
        indices.append(index)
    if not indices:
        raise UserError(f"expected readable images in {source.name}, got none")
    return Images(
        pixels=intensity.stacked(pixels),
        keys=tuple(source.key(index) for index in indices),
        labels=None if source.labels is None else source.labels[indices],
        classes=source.classes,
        indices=tuple(indices),
    )
