"""Pairs of an image and a mask of classes: a folder of pairs (pairing.py), cut-outs, or a set as it is published.

    cut-outs     ROOT/NAME.png: the mask is the alpha channel of the image
    ADE20K       images/{training,validation}/*.jpg, annotations/{training,validation}/*.png: 0 is ignored, 1 to 150
    Cityscapes   leftImg8bit/{train,val}/CITY/*_leftImg8bit.png, gtFine/{train,val}/CITY/*_gtFine_labelTrainIds.png,
                 or _labelIds.png, of which 19 classes count
    Pascal VOC   JPEGImages/*.jpg, SegmentationClass/*.png, ImageSets/Segmentation/{train,val,trainaug}.txt;
                 masks of trainaug lie in SegmentationClassAug/

What the masks of a folder mean is found out in masks.py.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps

from dinokit.annotations.masks import IGNORED, palette
from dinokit.annotations.meaning import Meaning, black_and_white, class_ids, described, numbered
from dinokit.annotations.pairing import Annotated, Files, check_size, folders_of, matched, read_image, reading
from dinokit.core.files import read_text
from dinokit.core.messages import UserError, warn
from dinokit.images import intensity
from dinokit.images.decode import describe, reasons, stored
from dinokit.sources.location import choose_split, existing_folder, is_image, walk

ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".npy", ".webp", ".jpg", ".jpeg")  # JPEG: in black and white alone
VOC_CLASSES = (
    "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, "
    "motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"
)
CITY_CLASSES = (
    "road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person, "
    "rider, car, truck, bus, train, motorcycle, bicycle"
)
CITY_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of _labelIds


@dataclass(frozen=True)
class Pairs(Annotated):
    """One split of images and masks of classes."""

    meaning: Meaning

    missing: ClassVar[int] = IGNORED

    def read(self, index: int) -> tuple[intensity.Image, UInt8[numpy.ndarray, "height width"]]:
        """Read an image and its class ids."""
        path, mask_path = self.images[index], self.beside[index]
        if path == mask_path:
            return _cut_out(path, channels=self.channels, white=self.white)
        image, mask = read_image(path, channels=self.channels, white=self.white), class_ids(mask_path, self.meaning)
        check_size(path, image.shape[1:], mask_path, mask.shape, kind="mask")
        return image, mask

    def said(self) -> object:
        """Say which value is which class."""
        meaning = self.meaning
        return [list(meaning.classes), sorted(map(list, meaning.ids.items())), meaning.coloured, meaning.white]

    def check(self, indices: Iterable[int]) -> set[int]:
        """Read pairs before a long computation, of which some pixel must be of a class; return the classes there."""
        why, shown = f"no pixel of the masks of {self.name} counts: all are 255", set[int]()

        def counts(mask: UInt8[numpy.ndarray, "height width"]) -> bool:
            here = set(numpy.flatnonzero(numpy.bincount(mask.ravel())).tolist()) - {IGNORED}
            shown.update(here)
            return bool(here)

        self.look(indices, counts=counts, why=why)
        return shown


def pair_splits(data: str) -> tuple[str, ...]:
    """Return the splits of a folder of pairs, the one to train on first; empty if there are none."""
    root = existing_folder(data)
    layout = _layout(root)
    if layout is None:
        return tuple(name for name in folders_of(root, "masks") if name)
    return tuple(name for name, place in layout.splits.items() if (root / place).exists())


def open_pairs(data: str, *, split: str | None = None, channels: int = 3, white: float | int | None = None) -> Pairs:
    """Open a split of pairs, or raise UserError; None is the first, or everything where there are no splits."""
    root, chosen = existing_folder(data), choose_split(data, split, pair_splits(data)) or ""
    layout = _layout(root)
    if layout is not None:
        (images, masks), meaning = layout.listed(root, chosen)
        for image, mask in zip(images, masks):
            for kind, path in (("image", image), ("mask", mask)):
                if not path.is_file():
                    raise UserError(f"expected the {kind} {path}, which is not there; the set is not complete")
        if not images:
            raise UserError(f"expected pairs of images and masks in {root}, found no image")
        return Pairs(data, images, masks, channels, white, meaning)
    found = {name: matched(*place, kind="mask", endings=ENDINGS) for name, place in folders_of(root, "masks").items()}
    if not found:
        cut_outs = _cut_outs(root)
        return Pairs(data, cut_outs, cut_outs, channels, white, black_and_white())
    # the classes of all splits: an id means the same in each
    meaning = described(root, [mask for _, masks in found.values() for mask in masks])
    return Pairs(data, *found[chosen], channels, white, meaning)


def _ade20k(root: Path, split: str) -> tuple[Files, Meaning]:
    """The names of the classes stand in objectInfo150.txt, if it is there."""
    folder = {"train": "training", "val": "validation"}[split]
    images = tuple(sorted((root / "images" / folder).glob("*.jpg")))
    info = root / "objectInfo150.txt"
    names = [str(number) for number in range(1, 151)]
    if info.is_file():
        rows = [line.split("\t") for line in read_text(info).splitlines()[1:]]
        names = [row[-1].split(",")[0].strip() for row in rows if len(row) > 1]
    masks = tuple(root / "annotations" / folder / f"{image.stem}.png" for image in images)
    return (images, masks), numbered(names, first=1, ignored=(0, IGNORED))


def _cityscapes(root: Path, split: str) -> tuple[Files, Meaning]:
    top = root / "leftImg8bit" / split
    images = tuple(sorted(top.rglob("*_leftImg8bit.png")))
    stems = [root / "gtFine" / split / image.relative_to(top).with_name(image.name[:-16]) for image in images]
    ready = tuple(Path(f"{stem}_gtFine_labelTrainIds.png") for stem in stems)
    meaning = numbered(CITY_CLASSES.split(", "))
    if not ready or ready[0].is_file():
        return (images, ready), meaning
    ids = dict.fromkeys(range(256), IGNORED) | {value: index for index, value in enumerate(CITY_IDS)}
    masks = tuple(Path(f"{stem}_gtFine_labelIds.png") for stem in stems)
    return (images, masks), Meaning(meaning.classes, palette(len(meaning.classes)), ids)


def _voc(root: Path, split: str) -> tuple[Files, Meaning]:
    folder = root / ("SegmentationClassAug" if split == "trainaug" else "SegmentationClass")
    names = read_text(root / "ImageSets" / "Segmentation" / f"{split}.txt").split()
    images = tuple(root / "JPEGImages" / f"{name}.jpg" for name in names)
    return (images, tuple(folder / f"{name}.png" for name in names)), numbered(VOC_CLASSES.split(", "))


@dataclass(frozen=True)
class Layout:
    """How a published set lies in its folder."""

    there: tuple[str, str]  # folders that tell it
    splits: dict[str, str]  # split -> what lies there if it does
    listed: Callable[[Path, str], tuple[Files, Meaning]]


LAYOUTS = {
    "ADE20K": Layout(("annotations", "images"), {"train": "images/training", "val": "images/validation"}, _ade20k),
    "Cityscapes": Layout(("leftImg8bit", "gtFine"), {n: f"leftImg8bit/{n}" for n in ("train", "val")}, _cityscapes),
    "Pascal VOC": Layout(
        ("JPEGImages", "SegmentationClass"),
        {name: f"ImageSets/Segmentation/{name}.txt" for name in ("train", "val", "trainaug")},
        _voc,
    ),
}


def layout_of(root: Path) -> str | None:
    """Return the name of the published layout of a folder; None if it has none."""
    return next((name for name, one in LAYOUTS.items() if all((root / each).is_dir() for each in one.there)), None)


def _layout(root: Path) -> Layout | None:
    name = layout_of(root)
    return None if name is None else LAYOUTS[name]


def _cut_outs(root: Path) -> tuple[Path, ...]:
    """List the images with an alpha channel that lie in a folder."""
    found, others = list[Path](), list[Path]()
    for path in sorted(path for path in walk(root) if is_image(path)):
        has_alpha = path.lower().endswith((".png", ".webp"))
        if has_alpha:
            with reading("image", root / path), reasons(), Image.open(root / path) as image:
                has_alpha = image.has_transparency_data
        (found if has_alpha else others).append(root / path)
    if not found:
        raise UserError(
            f"expected pairs in {root}: images/ and masks/ with files of the same names, PNGs with an alpha channel, "
            f"or the layout of {', '.join(LAYOUTS)}; found none of these"
        )
    if others:
        warn(f"{len(others)} images in {root} have no alpha channel and are passed over, such as {others[0]}")
    return tuple(found)


def _cut_out(
    path: Path, *, channels: int, white: float | int | None
) -> tuple[intensity.Image, UInt8[numpy.ndarray, "height width"]]:
    """Read an image that hides its background by alpha: what is hidden is still there."""
    with reading("image", path), reasons(), Image.open(path) as image:
        pixels = numpy.array(ImageOps.exif_transpose(image).convert("RGBA"))
        colours = numpy.array(Image.fromarray(pixels[..., :3]).convert("L" if channels == 1 else "RGB"))
        if describe(path.read_bytes()).mode.endswith(";16"):
            colours = replace(stored(path.read_bytes()), alpha="", clear=None).picture(channels, white=white)
    mask = (pixels[..., 3] > 127).astype(numpy.uint8)
    return torch.from_numpy(colours.reshape(*mask.shape, -1)).permute(2, 0, 1), mask
