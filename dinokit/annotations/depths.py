"""Pairs of an image and its depth: a folder of pairs (pairing.py), or NYUv2, KITTI (Eigen's split) and SUN RGB-D.

    folder      images/NAME.jpg with depth/NAME.png, .tif, .npy or .exr
    NYUv2       nyu_train.txt, nyu_test.txt: lines "image depth focal", millimetres
    KITTI       kitti_eigen_train.txt, kitti_eigen_test.txt (or eigen_*_files_with_gt.txt), 1/256 metre
    SUN RGB-D   SUNRGBD_val_splits.txt: lines "image depth"; 16-bit PNG, millimetres with their bits rotated by three

What a number means: `units` of it are a metre if that is given, whatever its type; else integers are as the set says,
1000 a metre in a folder, and numbers with a fraction are metres. What is 0 or less, no number, or what a TIFF calls no
data was not measured: 0.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy
from jaxtyping import Float32

from dinokit.annotations.pairing import Annotated, Files, Values, check_size, folders_of, matched, read_image, reading
from dinokit.core.files import read_text
from dinokit.core.messages import BadImage, UserError, library
from dinokit.images import intensity
from dinokit.images.decode import describe, reasons, stored
from dinokit.metrics.depth import Crop, counted
from dinokit.sources.location import choose_split, existing_folder

ENDINGS = (".png", ".tif", ".tiff", ".npy", ".exr")


@dataclass(frozen=True)
class Layout:
    """A published set: its lists, and what its numbers mean."""

    name: str
    lists: dict[str, tuple[str, ...]]  # split: names its list may have
    high: float  # metres; nothing further counts
    crop: str  # of metrics/depth.py
    units: float = 1000.0  # a metre
    window: tuple[int, int] = (416, 544)  # rows, columns of a training crop
    border: tuple[int, int, int, int] | None = None  # top, bottom, left, right of what is seen in training
    bottom: tuple[int, int] | None = None  # rows at the bottom and columns in the middle that are used at all
    rotated: bool = False  # bits of the depths


LAYOUTS = (
    Layout("NYUv2", {"train": ("nyu_train.txt",), "test": ("nyu_test.txt",)}, 10.0, "nyu", border=(45, 472, 43, 608)),
    Layout(
        "KITTI",
        {
            "train": ("kitti_eigen_train.txt", "eigen_train_files_with_gt.txt"),
            "test": ("kitti_eigen_test.txt", "eigen_test_files_with_gt.txt"),
        },
        high=80.0,
        crop="garg",
        units=256.0,
        window=(352, 704),
        bottom=(352, 1216),
    ),
    Layout("SUN RGB-D", {"test": ("SUNRGBD_val_splits.txt",)}, high=10.0, crop="none", rotated=True),
)
FOLDER = Layout("folder", {}, high=10.0, crop="none")


@dataclass(frozen=True)
class Depths(Annotated):
    """One split of images and depths."""

    layout: Layout
    units: float | None  # of every depth, a metre; null: what the set says

    missing: ClassVar[int] = 0

    def read(self, index: int) -> tuple[intensity.Image, Float32[numpy.ndarray, "height width"]]:
        """Read an image and its depth in metres, 0 where there is none."""
        path, depth_path = self.images[index], self.beside[index]
        image, values = read_image(path, channels=self.channels, white=self.white), read_numbers(depth_path)
        check_size(path, image.shape[1:], depth_path, values.shape, kind="depth")
        if self.layout.rotated:
            values = ((values.astype(numpy.uint16) >> 3) | (values.astype(numpy.uint16) << 13)).astype(numpy.int64)
        whole = numpy.issubdtype(values.dtype, numpy.integer)
        metres = values.astype(numpy.float64) / (self.units or (self.layout.units if whole else 1.0))
        metres = numpy.where(numpy.isfinite(metres) & (metres > 0), metres, 0.0).astype(numpy.float32)
        if self.layout.bottom is not None:
            rows, columns = (min(used, there) for used, there in zip(self.layout.bottom, metres.shape, strict=True))
            top, left = metres.shape[0] - rows, (metres.shape[1] - columns) // 2
            image = image[:, top:, left : left + columns]
            metres = metres[top:, left : left + columns]
        return image, metres

    def said(self) -> object:
        """Say how many units are a metre."""
        return self.units

    def check(self, indices: Iterable[int], *, low: float, high: float, crop: Crop = "none") -> None:
        """Read pairs before a long computation, of which some pixel must lie within the range and the crop."""
        why = f"no pixel of {self.name} has a depth between {low} and {high} m; look at units and high"
        within = partial(counted, low=low, high=high, crop=crop)
        self.look(indices, counts=lambda depth: bool(within(depth).any()), why=why)


def splits_of(data: str) -> tuple[str, ...]:
    """Return the splits, the one to train on first; empty if there are none."""
    root = existing_folder(data)
    layout = layout_of(root)
    if layout is not None:
        return tuple(split for split, names in layout.lists.items() if any((root / name).is_file() for name in names))
    return tuple(name for name in folders_of(root, "depth") if name)


def open_depths(
    data: str,
    *,
    split: str | None = None,
    channels: int = 3,
    white: float | int | None = None,
    units: float | None = None,
) -> Depths:
    """Open a split, or raise UserError; None is the first, or everything where there are no splits.

    Args:
        units: of a depth, a metre; None: what the set says.
    """
    root, chosen = existing_folder(data), choose_split(data, split, splits_of(data)) or ""
    layout = layout_of(root)
    if layout is not None:
        return Depths(data, *_listed(root, layout, chosen), channels, white, layout, units)
    places = folders_of(root, "depth")
    if not places:
        names = ", ".join(layout.name for layout in LAYOUTS)
        raise UserError(f"expected {root} to hold images/ and depth/ with files of the same names, or {names}")
    return Depths(data, *matched(*places[chosen], kind="depth", endings=ENDINGS), channels, white, FOLDER, units)


def layout_of(root: Path) -> Layout | None:
    """Return the published layout of a folder; None if it has none."""
    return next((one for one in LAYOUTS if any((root / name).is_file() for name in sum(one.lists.values(), ()))), None)


def _listed(root: Path, layout: Layout, split: str) -> Files:
    place = next(root / name for name in layout.lists[split] if (root / name).is_file())
    images, depths = list[Path](), list[Path]()
    for line in read_text(place).splitlines():
        words = line.split()
        if len(words) < 2 or words[1] == "None":  # KITTI lists images without a measurement
            continue
        for found, name, folders in (
            (images, words[0], ("", "input", "raw")),
            (depths, words[1], ("", "gt_depth", "data_depth_annotated")),
        ):
            places = [root / folder / name.lstrip("/") for folder in folders]
            found.append(next((place for place in places if place.exists()), places[0]))
    if not images:
        raise UserError(f"{place} lists no pair; expected lines such as 'image.jpg depth.png 518.8'")
    return tuple(images), tuple(depths)


def read_numbers(path: Path) -> Values:
    """Read one number per pixel as it is stored, 0 where a TIFF says that there is no data, or raise UserError."""
    with reading("depth", path):
        if path.suffix.lower() == ".exr":
            return _exr(path)
        data = path.read_bytes()
        about, found = describe(data), stored(data)
        if about.format == "JPEG" or about.mode in ("1", "P") or found.values.dtype == bool:
            raise BadImage(f"{about.format} of mode {about.mode or found.values.dtype}, expected numbers kept exactly")
        if found.values.shape[2] != 1:
            raise BadImage(f"expected one number per pixel, got {found.values.shape[2]}")
    return numpy.where(False if found.missing is None else found.missing[..., 0], 0, found.values[..., 0])


def _exr(path: Path) -> Values:
    """Read the channel that holds depth: Z by the standard, V of Blender's pass, or any where all are the same."""
    exr = library("OpenEXR", extra="exr")
    with reasons():
        channels = exr.File(str(path), separate_channels=True).channels()
        named = [channels[name] for name in channels if name.rpartition(".")[2] in ("Z", "V")]
        first, *others = channels.values()
        if not named and not all(numpy.array_equal(first.pixels, other.pixels) for other in others):
            raise BadImage(f"none of its channels {', '.join(channels)} is depth; expected Z")
        values: numpy.ndarray = (named or [first])[0].pixels
    return values
