"""Pairs of an image and its depth: a folder of such, or NYUv2, KITTI (Eigen's split) and SUN RGB-D as published.

    folder      ROOT/{train,val}/images/NAME.jpg with ROOT/{train,val}/depth/NAME.png, .tif, .npy or .exr; or no splits
    NYUv2       nyu_train.txt, nyu_test.txt: lines "image depth focal", millimetres
    KITTI       kitti_eigen_train.txt, kitti_eigen_test.txt (or eigen_*_files_with_gt.txt), 1/256 metre
    SUN RGB-D   SUNRGBD_val_splits.txt: lines "image depth"; 16-bit PNG, millimetres with their bits rotated by three

Where nothing was measured the depth is 0. Integers are divided by `units` (1000 a metre unless the set says
otherwise), numbers with a fraction are metres.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy
from jaxtyping import Float32
from PIL import Image

from dinokit.core.errors import UserError
from dinokit.core.hub import library
from dinokit.images import intensity
from dinokit.images.bad_image import BadImage, reasons
from dinokit.images.decode import EXTENSIONS, decode
from dinokit.sources.folders import existing_folder, walk
from dinokit.sources.splits import choose_split, split_folders

ENDINGS = (".png", ".tif", ".tiff", ".npy", ".exr")
_KITTI = (352, 1216)  # rows, columns at the bottom, in the middle, of which KITTI's images are used


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
    bottom: tuple[int, int] | None = None  # rows and columns that are used at all
    rotated: bool = False  # bits of the depths


LAYOUTS = (
    Layout(
        "NYUv2",
        {"train": ("nyu_train.txt",), "test": ("nyu_test.txt",)},
        high=10.0,
        crop="nyu",
        border=(45, 472, 43, 608),
    ),
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
        bottom=_KITTI,
    ),
    Layout("SUN RGB-D", {"test": ("SUNRGBD_val_splits.txt",)}, high=10.0, crop="none", rotated=True),
)
FOLDER = Layout("folder", {}, high=10.0, crop="none")


@dataclass(frozen=True)
class Depths:
    """One split; picklable, holds no open file."""

    name: str
    layout: Layout
    images: tuple[Path, ...]
    depths: tuple[Path, ...]
    channels: int
    units: float

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[intensity.Image, Float32[numpy.ndarray, "height width"]]:
        """Read an image and its depth in metres, 0 where there is none, of the same height and width.

        Raises:
            UserError: if one cannot be read, or their sizes differ.
        """
        path, depth_path = self.images[index], self.depths[index]
        try:
            image = decode(path.read_bytes(), channels=self.channels)
        except (BadImage, OSError) as error:
            raise UserError(f"cannot read the image {path}: {error}; repair it or take the pair away") from error
        metres = _metres(depth_path, units=self.units, rotated=self.layout.rotated)
        if tuple(image.shape[1:]) != metres.shape:
            sizes = f"{image.shape[2]} x {image.shape[1]} and {metres.shape[1]} x {metres.shape[0]}"
            raise UserError(f"{path} and its depth {depth_path} must be of one size, got {sizes} pixels")
        if self.layout.bottom is not None:
            rows, columns = (min(used, there) for used, there in zip(self.layout.bottom, metres.shape, strict=True))
            top, left = metres.shape[0] - rows, (metres.shape[1] - columns) // 2
            image = image[:, top:, left : left + columns]
            metres = metres[top:, left : left + columns]
        return image, metres


def splits_of(data: str) -> tuple[str, ...]:
    """Return the splits, the one to train on first; empty if there are none."""
    root = existing_folder(data)
    layout = _layout(root)
    if layout is not None:
        return tuple(split for split, names in layout.lists.items() if any((root / name).is_file() for name in names))
    return tuple(name for name, folder in split_folders(root).items() if (folder / "images").is_dir())


def open_depths(data: str, *, split: str | None = None, channels: int = 3, units: float | None = None) -> Depths:
    """Open a split; None is the first, or everything where there are none.

    Args:
        units: of integer depths, a metre; None: those of the set.

    Raises:
        UserError: names what is missing.
    """
    root, known = existing_folder(data), splits_of(data)
    chosen = choose_split(data, split, known) or ""
    layout = _layout(root)
    if layout is not None:
        images, depths = _listed(root, layout, chosen)
        return Depths(data, layout, images, depths, channels, units or layout.units)
    images, depths = _matched(split_folders(root)[chosen] if chosen else root)
    return Depths(data, FOLDER, images, depths, channels, units or FOLDER.units)


def _layout(root: Path) -> Layout | None:
    for layout in LAYOUTS:
        if any((root / name).is_file() for names in layout.lists.values() for name in names):
            return layout
    return None


def _listed(root: Path, layout: Layout, split: str) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    place = next(root / name for name in layout.lists[split] if (root / name).is_file())
    images, depths = [], []
    for line in place.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if len(words) < 2 or words[1] == "None":  # KITTI lists images without a measurement
            continue
        images.append(_placed(root, words[0], ("", "input", "raw")))
        depths.append(_placed(root, words[1], ("", "gt_depth", "data_depth_annotated")))
    if not images:
        raise UserError(f"{place} lists no pair; expected lines such as 'image.jpg depth.png 518.8'")
    return tuple(images), tuple(depths)


def _placed(root: Path, name: str, folders: tuple[str, ...]) -> Path:
    places = [root / folder / name.lstrip("/") for folder in folders]
    return next((place for place in places if place.exists()), places[0])


def _matched(root: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    images, depths = root / "images", root / "depth"
    if not images.is_dir() or not depths.is_dir():
        names = ", ".join(layout.name for layout in LAYOUTS)
        raise UserError(f"expected {root} to hold images/ and depth/ with files of the same names, or {names}")
    by_stem = {name.rsplit(".", 1)[0]: depths / name for name in walk(depths) if name.lower().endswith(ENDINGS)}
    found = sorted(name for name in walk(images) if name.lower().endswith(EXTENSIONS))
    for name in found:
        if name.rsplit(".", 1)[0] not in by_stem:
            raise UserError(
                f"expected the depth of {images / name} in {depths}, as .png, .tif, .npy or .exr of the same name"
            )
    if not found:
        raise UserError(f"found no image in {images}")
    return tuple(images / name for name in found), tuple(by_stem[name.rsplit(".", 1)[0]] for name in found)


def _metres(path: Path, *, units: float, rotated: bool) -> Float32[numpy.ndarray, "height width"]:
    try:
        values = _read(path)
    except (BadImage, OSError, ValueError) as error:
        raise UserError(f"cannot read the depth {path}: {error}; repair it or take the pair away") from error
    if values.ndim != 2:
        raise UserError(f"{path} must hold one number per pixel, got an array of shape {list(values.shape)}")
    if rotated:
        values = ((values.astype(numpy.uint16) >> 3) | (values.astype(numpy.uint16) << 13)).astype(numpy.int64)
    whole = numpy.issubdtype(values.dtype, numpy.integer)
    metres = values.astype(numpy.float64) / (units if whole else 1.0)
    return numpy.where(numpy.isfinite(metres) & (metres > 0), metres, 0.0).astype(numpy.float32)


def _read(path: Path) -> numpy.ndarray:
    if path.suffix.lower() == ".npy":
        values: numpy.ndarray = numpy.load(path, allow_pickle=False)
        return values
    if path.suffix.lower() == ".exr":
        return _exr(path)
    with reasons(), Image.open(path) as image:
        return numpy.asarray(image)


def _exr(path: Path) -> numpy.ndarray:
    """Read the channel that holds depth: Z by the standard, V of Blender's pass, or any where all are the same."""
    exr = library("OpenEXR", extra="exr")
    try:
        channels = exr.File(str(path), separate_channels=True).channels()
    except RuntimeError as error:
        raise BadImage(str(error)) from error
    named = [channels[name] for name in channels if name.rpartition(".")[2] in ("Z", "V")]
    first, *others = channels.values()
    if not named and not all(numpy.array_equal(first.pixels, other.pixels) for other in others):
        raise BadImage(f"none of its channels {', '.join(channels)} is depth; expected Z")
    values: numpy.ndarray = (named or [first])[0].pixels
    return values
