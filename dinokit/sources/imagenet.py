"""What is measured with a head of ImageNet's 1,000 classes: ReaL, V2, C, Sketch and ObjectNet, labelled by WordNet ids.

The number of a class is its place among the sorted ids of ILSVRC 2012, which come with the package.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from dinokit.core.files import read_json
from dinokit.core.messages import UserError
from dinokit.sources.listings import Listing, class_folders, in_folders, lines, listing, one_of
from dinokit.sources.location import entries, is_image, walk
from dinokit.sources.table import label_of

FOLDERS = ("imagenet1k", "in1k", "ilsvrc", "ilsvrc2012", "data", "clsloc")
VAL = "val|ILSVRC2012_img_val"
REAL = "real.json|reassessed-imagenet/real.json|reassessed-imagenet-master/real.json"
MAPPINGS = (
    "folder_to_objectnet_label.json",
    "objectnet_to_imagenet_1k.json",
    "imagenet_to_label_2012_v2",
    "pytorch_to_imagenet_2012_id.json",
)
CORRUPTIONS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),  # of no published number
}
# a corruption lies in the folder of the set or in that of its archive
_PLACES = [f"{name}|{group}/{name}" for group, names in CORRUPTIONS.items() for name in names]
CORRUPTED = "|".join(f"{place}/[1-5]" for places in _PLACES for place in places.split("|"))
BORDER = 2  # pixels of red around the images of ObjectNet, against learning from them
_NUMBER = re.compile(r"_(\d+)\.[^.]+$")


@cache
def wnids() -> tuple[str, ...]:
    """Return the WordNet ids of the 1,000 classes, in the order of their numbers."""
    return tuple((files("dinokit.sources") / "assets" / "imagenet_1k_wnids.txt").read_text("utf-8").split())


def real(root: Path, _: str) -> Listing:
    """Read ReaL (Beyer et al. 2020, arXiv:2006.07159): all that is in each validation image; without labels, none."""
    path, top, known = one_of(root, REAL), one_of(root, VAL), wnids()
    found, images = read_json(path), list[tuple[str, str]]()
    for name in sorted(filter(is_image, walk(top)), key=lambda name: name.rpartition("/")[2]):
        number = _NUMBER.search(name)
        if number is None:
            raise UserError(f"{top / name} has no number; expected names like ILSVRC2012_val_00000001.JPEG")
        try:
            classes = [known[each] for each in found[int(number[1]) - 1]]
        except (LookupError, TypeError) as error:
            raise UserError(f"{path} has no list of class numbers for image {int(number[1]):,}") from error
        if classes:
            images.append((f"{top.name}/{name}", label_of(classes)))
    return listing(root, images, known)


def second(root: Path, _: str) -> Listing:
    """Read V2 (Recht et al. 2019, arXiv:1902.10811), whose folders are numbers of classes."""
    known = wnids()
    folders = [name for name in entries(root)[1] if name.isdecimal() and int(name) < len(known)]
    images = in_folders(root, root, sorted(folders, key=int))
    return listing(root, ((path, known[int(name)]) for path, name in images), known)


def sketch(root: Path, _: str) -> Listing:
    """Read Sketch (Wang et al. 2019, arXiv:1905.13549)."""
    return class_folders(root, "", pattern="n????????", known=wnids())


def corrupted(root: Path, _: str) -> Listing:
    """Read C (Hendrycks and Dietterich 2019, arXiv:1903.12261); domains are CORRUPTION/SEVERITY."""
    tops = [one_of(root, place) / str(severity) for place in _PLACES for severity in range(1, 6)]
    images = (
        image
        for top in tops
        if top.is_dir()
        for image in in_folders(root, top, (name for name in entries(top)[1] if name.startswith("n")))
    )
    return listing(root, images, wnids(), domain=lambda path: "/".join(path.split("/")[-4:-2]))


def objects(root: Path, _: str) -> Listing:
    """Read the classes of ObjectNet (Barbu et al. 2019) that are in ImageNet, where some are several."""
    top = root / "images"
    of_folder = _overlap(root / "mappings")
    folders = [folder for folder in entries(top)[1] if folder in of_folder]
    images = ((path, label_of(of_folder[word])) for path, word in in_folders(root, top, folders))
    return replace(listing(root, images, wnids()), border=BORDER)


def _overlap(mappings: Path) -> Mapping[str, list[str]]:
    """Return the WordNet ids of a folder of ObjectNet, by its name."""
    labels, names, numbers = (mappings / name for name in (MAPPINGS[0], MAPPINGS[1], MAPPINGS[3]))
    known, folders, of_label, lines_of = wnids(), read_json(labels), read_json(names), read_json(numbers)
    # places in the list of names are not numbers of classes
    line_of_name = {name.strip(): number for number, name in enumerate(lines(mappings / MAPPINGS[2]))}
    try:
        class_of_line = {int(line): known[int(number)] for number, line in lines_of.items()}
        return {
            folder: [class_of_line[line_of_name[name.strip()]] for name in of_label[label].split("; ")]
            for folder, label in folders.items()
            if label in of_label
        }
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"the files in {mappings} do not fit together ({error}); unpack ObjectNet again") from error
