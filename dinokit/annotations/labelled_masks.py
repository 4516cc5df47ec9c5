"""The official layouts of ADE20K, Cityscapes and Pascal VOC: where images, masks and lists of a split lie.

ADE20K       images/{training,validation}/*.jpg, annotations/{training,validation}/*.png: 0 is ignored, 1 to 150
Cityscapes   leftImg8bit/{train,val}/CITY/*_leftImg8bit.png, gtFine/{train,val}/CITY/*_gtFine_labelTrainIds.png,
             or _labelIds.png, of which 19 classes count
Pascal VOC   JPEGImages/*.jpg, SegmentationClass/*.png, ImageSets/Segmentation/{train,val,trainaug}.txt;
             masks of trainaug lie in SegmentationClassAug/
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dinokit.annotations.masks import IGNORED, Meaning, numbered, palette
from dinokit.core.errors import UserError

VOC_CLASSES = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
CITY_CLASSES = [
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
]
CITY_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of _labelIds
_CITY_VALUES = 256  # of which a mask may hold any


@dataclass(frozen=True)
class Listing:
    """The pairs of a split, still unread."""

    keys: tuple[str, ...]
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    meaning: Meaning


def ade20k(root: Path, split: str) -> Listing:
    """List ADE20K; the names of its classes stand in objectInfo150.txt, if it is there."""
    folder = {"train": "training", "val": "validation"}[split]
    images = sorted(_existing(root / "images" / folder).glob("*.jpg"))
    info = root / "objectInfo150.txt"
    names = [str(number) for number in range(1, 151)]
    if info.is_file():
        rows = [line.split("\t") for line in info.read_text(encoding="utf-8").splitlines()[1:]]
        names = [row[-1].split(",")[0].strip() for row in rows if len(row) > 1]
    masks = [root / "annotations" / folder / f"{image.stem}.png" for image in images]
    return listed(root, images, masks, numbered(names, first=1, ignored=(0, IGNORED)))


def cityscapes(root: Path, split: str) -> Listing:
    """List Cityscapes."""
    top = _existing(root / "leftImg8bit" / split)
    images = sorted(top.rglob("*_leftImg8bit.png"))
    stems = [root / "gtFine" / split / image.relative_to(top).with_name(image.name[:-16]) for image in images]
    ready = [Path(f"{stem}_gtFine_labelTrainIds.png") for stem in stems]
    if not ready or ready[0].is_file():
        return listed(root, images, ready, numbered(CITY_CLASSES))
    ids = dict.fromkeys(range(_CITY_VALUES), IGNORED) | {value: index for index, value in enumerate(CITY_IDS)}
    meaning = Meaning(tuple(CITY_CLASSES), palette(len(CITY_CLASSES)), ids)
    return listed(root, images, [Path(f"{stem}_gtFine_labelIds.png") for stem in stems], meaning)


def voc(root: Path, split: str) -> Listing:
    """List Pascal VOC 2012 and its like."""
    lists = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not lists.is_file():
        raise UserError(f"expected the list of images {lists}, which is not there")
    folder = root / ("SegmentationClassAug" if split == "trainaug" else "SegmentationClass")
    names = lists.read_text(encoding="utf-8").split()
    images = [root / "JPEGImages" / f"{name}.jpg" for name in names]
    return listed(root, images, [folder / f"{name}.png" for name in names], numbered(VOC_CLASSES))


# what stands in the folder -> its name and what lists it
LAYOUTS: dict[tuple[str, ...], tuple[str, Callable[[Path, str], Listing]]] = {
    ("annotations", "images"): ("ADE20K", ade20k),
    ("leftImg8bit", "gtFine"): ("Cityscapes", cityscapes),
    ("JPEGImages", "SegmentationClass"): ("Pascal VOC", voc),
}


def listed(root: Path, images: list[Path], masks: list[Path], meaning: Meaning) -> Listing:
    """Check that all files are there.

    Raises:
        UserError: names the first that is not.
    """
    for image, mask in zip(images, masks):
        if not image.is_file():
            raise UserError(f"expected the image {image}, which is not there")
        if not mask.is_file():
            raise UserError(f"expected the mask {mask} of {image.relative_to(root)}, which is not there")
    if not images:
        raise UserError(f"expected pairs of images and masks in {root}, found no image")
    return Listing(tuple(image.relative_to(root).as_posix() for image in images), tuple(images), tuple(masks), meaning)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"expected the folder {folder}, which is not there")
    return folder
