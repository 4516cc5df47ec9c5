"""Pairs of an image and a mask of classes: any folder of such, or ADE20K, Cityscapes, Pascal VOC as they are published.

A folder of pairs is one of

    ROOT/images/NAME.jpg         ROOT/masks/NAME.png             no splits
    ROOT/train/images/NAME.jpg   ROOT/train/masks/NAME.png       and ROOT/val/, ROOT/test/
    ROOT/images/train/NAME.jpg   ROOT/masks/train/NAME.png       and so on
    ROOT/NAME.png                                                the mask is the alpha channel of the image

with classes.txt or classes.json in ROOT, if there is one (see masks.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from jaxtyping import UInt8
from PIL import Image

from dinokit.annotations.labelled_masks import LAYOUTS, Listing, listed
from dinokit.annotations.masks import Meaning, class_ids, described
from dinokit.core.errors import UserError
from dinokit.images import intensity
from dinokit.images.bad_image import BadImage, reasons
from dinokit.images.decode import EXTENSIONS, decode
from dinokit.sources.folders import existing_folder, walk
from dinokit.sources.splits import SPLITS, choose_split, split_folders

MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif")
_CUT_OUT = Meaning(("background", "foreground"), ((0, 0, 0), (255, 255, 255)), {0: 0, 255: 1})


@dataclass(frozen=True)
class Pairs:
    """One split; picklable, holds no open file."""

    name: str
    listing: Listing
    channels: int

    def __len__(self) -> int:
        return len(self.listing.keys)

    @property
    def meaning(self) -> Meaning:
        """The classes and their colours."""
        return self.listing.meaning

    def key(self, index: int) -> str:
        """Return the path of the image within the folder."""
        return self.listing.keys[index]

    def read(self, index: int) -> tuple[intensity.Image, UInt8[numpy.ndarray, "height width"]]:
        """Read an image and its class ids, of the same height and width.

        Raises:
            UserError: if one cannot be read, or their sizes differ.
        """
        path, mask_path = self.listing.images[index], self.listing.masks[index]
        try:
            if path == mask_path:
                return _cut_out(path, channels=self.channels)
            image = decode(path.read_bytes(), channels=self.channels)
        except BadImage as error:
            raise UserError(f"cannot read the image {path}: {error}; repair it or take the pair away") from error
        mask = class_ids(mask_path, self.meaning)
        if tuple(image.shape[1:]) != mask.shape:
            sizes = f"{image.shape[2]} x {image.shape[1]} and {mask.shape[1]} x {mask.shape[0]}"
            raise UserError(f"{path} and its mask {mask_path} must be of one size, got {sizes} pixels")
        return image, mask


def pair_splits(data: str) -> tuple[str, ...]:
    """Return the splits of a folder of pairs, the one to train on first; empty if there are none."""
    root = existing_folder(data)
    official = _official(root)
    if official is not None:
        lists = root / "ImageSets" / "Segmentation"
        return ("train", "val", *(("trainaug",) if (lists / "trainaug.txt").is_file() else ()))
    return tuple(name for name in SPLITS if _folders(root, name)[0].is_dir())


def open_pairs(data: str, *, split: str | None = None, channels: int = 3) -> Pairs:
    """Open a split of pairs; None is the first split, or everything where there are none.

    Raises:
        UserError: names what is missing.
    """
    root = existing_folder(data)
    known = pair_splits(data)
    chosen = choose_split(data, split, known) or ""
    official = _official(root)
    if official is not None:
        return Pairs(data, official(root, chosen), channels)
    places = {name: _folders(root, name) for name in known or ("",)}
    if not places[chosen][0].is_dir():
        return Pairs(data, _cut_outs(root), channels)
    found = {name: _matched(*place) for name, place in places.items()}
    # the classes of all splits: an id means the same in each
    meaning = described(root, [mask for _, masks in found.values() for mask in masks])
    return Pairs(data, listed(root, *found[chosen], meaning), channels)


def _official(root: Path) -> Callable[[Path, str], Listing] | None:
    for names, (_, lister) in LAYOUTS.items():
        if all((root / name).is_dir() for name in names):
            return lister
    return None


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    whole = split_folders(root).get(split)
    if whole is not None and (whole / "images").is_dir():
        return whole / "images", whole / "masks"
    images, masks = root / "images", root / "masks"
    return split_folders(images).get(split, images / split), split_folders(masks).get(split, masks / split)


def _matched(images: Path, masks: Path) -> tuple[list[Path], list[Path]]:
    """Find the mask of every image: the same path without the ending."""
    if not masks.is_dir():
        raise UserError(f"expected the masks of {images} in the folder {masks}, which is not there")
    by_stem = {_stem(path): masks / path for path in walk(masks) if path.lower().endswith(MASK_ENDINGS)}
    names = sorted(path for path in walk(images) if path.lower().endswith(EXTENSIONS))
    for name in names:
        if _stem(name) not in by_stem:
            raise UserError(f"expected the mask {masks / _stem(name)}.png of {images / name}, which is not there")
    lonely = by_stem.keys() - {_stem(name) for name in names}
    if lonely:
        raise UserError(f"expected an image {images / min(lonely)} of the mask {by_stem[min(lonely)]}, found none")
    return [images / name for name in names], [by_stem[_stem(name)] for name in names]


def _stem(path: str) -> str:
    return path.rsplit(".", 1)[0]


def _cut_outs(root: Path) -> Listing:
    """List the images with an alpha channel that lie in a folder."""
    found = []
    for path in sorted(path for path in walk(root) if path.lower().endswith((".png", ".webp"))):
        try:
            with reasons(), Image.open(root / path) as image:
                has_alpha = image.has_transparency_data
        except BadImage as error:
            raise UserError(f"cannot read the image {root / path}: {error}; repair it or take it away") from error
        if has_alpha:
            found.append(root / path)
    if not found:
        raise UserError(
            f"expected pairs in {root}: images/ and masks/ with files of the same names, PNGs with an alpha channel, "
            f"or the layout of {', '.join(name for name, _ in LAYOUTS.values())}; found none of these"
        )
    return listed(root, found, found, _CUT_OUT)


def _cut_out(path: Path, *, channels: int) -> tuple[intensity.Image, UInt8[numpy.ndarray, "height width"]]:
    """Read an image that hides its background by alpha: what is hidden is still there."""
    with reasons(), Image.open(path) as image:
        pixels = numpy.array(image.convert("RGBA"))
        colours = numpy.array(Image.fromarray(pixels[..., :3]).convert("L" if channels == 1 else "RGB"))
    mask = (pixels[..., 3] > 127).astype(numpy.uint8)
    return torch.from_numpy(colours.reshape(*mask.shape, -1)).permute(2, 0, 1), mask
