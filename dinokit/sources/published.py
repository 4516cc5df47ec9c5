"""Published sets of labelled images, NAME:FOLDER, in the layouts in which they are handed out.

FOLDER is the folder of the set or one above it; what lies in it is what the archives of the set unpack to, or what
torchvision makes of them. A set has the splits, the classes and the measure (`Source.metric`) of its paper. Where
several sets of settings are in use:

- SUN397 and DTD: the first of their ten splits. Aircraft: its 100 variants. Oxford-IIIT Pets: trainval is train.
- VOC 2007: a class of which an image shows difficult objects only is left open for it (`table.undecided`), as the
  challenge scores it; images without any class count as images of none.
- Caltech-101 has no split of its own: 30 images of each class, drawn by a fixed seed, are train, the rest is test; the
  background is no class (101 classes, 3,030 images to learn from, as in DINOv2).
- The ImageNet variants have WordNet ids as classes. Those that ask all 1,000 classes name all of them, whichever have
  images; R and A name their 200. ReaL and ObjectNet give an image several; images without one are left out.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dinokit.core.messages import UserError, unknown_name
from dinokit.images import intensity
from dinokit.images.decode import decode
from dinokit.sources import cifar, imagenet, instances, listings
from dinokit.sources.base import Metric, Source, from_table
from dinokit.sources.listings import Listing
from dinokit.sources.location import NO_PATHS, choose_split, entries, existing_folder, prefix

WNID = "n" + 8 * "[0-9]"  # of a folder
_MANY = 4  # names of a file, too many for a message
_DEEP = 3  # folders below the one that is given
_DEVKIT = "devkit/cars_test_annos_withlabels.mat|cars_test_annos_withlabels.mat"


@dataclass(frozen=True, kw_only=True)
class Published:
    """How a set is handed out."""

    layout: str  # what lies in its folder, for a message
    marks: tuple[str, ...]  # files and folders (patterns) that its folder must hold; of a|b one of both
    read: Callable[[Path, str], Listing]  # folder, split ("" where there are none)
    folders: tuple[str, ...] = ()  # names its folder may have beside its own, as `_plain` writes them
    splits: tuple[str, ...] = ("train", "test")
    metric: Metric | None = "top1"  # None: it is not measured by classes


_THREE = ("train", "val", "test")
SETS = {
    "food101": Published(
        layout="images/CLASS/*.jpg, meta/{train,test}.txt",
        marks=("meta/train.txt", "meta/test.txt", "images"),
        read=partial(listings.listed, lists={"train": "meta/train.txt", "test": "meta/test.txt"}, parse=listings.food),
    ),
    "cifar10": Published(
        layout="data_batch_{1..5}, test_batch, batches.meta (Python), or the same as .bin, batches.meta.txt",
        marks=("batches.meta|batches.meta.txt", "data_batch_1|data_batch_1.bin", "test_batch|test_batch.bin"),
        read=cifar.ten,
        folders=("cifar10batchespy", "cifar10batchesbin"),
    ),
    "cifar100": Published(
        layout="train, test, meta (Python), or train.bin, test.bin, fine_label_names.txt",
        marks=("meta|fine_label_names.txt", "train|train.bin", "test|test.bin"),
        read=cifar.hundred,
        folders=("cifar100python", "cifar100binary"),
    ),
    "sun397": Published(
        layout="LETTER/CLASS/*.jpg, {Training,Testing}_01.txt (or in Partitions/)",
        marks=("Training_01.txt|Partitions/Training_01.txt", "Testing_01.txt|Partitions/Testing_01.txt", "[a-z]"),
        read=partial(
            listings.listed,
            lists={
                "train": "Training_01.txt|Partitions/Training_01.txt",
                "test": "Testing_01.txt|Partitions/Testing_01.txt",
            },
            parse=listings.scene,
        ),
    ),
    "cars": Published(
        layout="cars_train/*.jpg, cars_test/*.jpg, devkit/{cars_meta,cars_train_annos,cars_test_annos_withlabels}.mat",
        marks=("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", _DEVKIT, "cars_train", "cars_test"),
        read=partial(listings.cars, test=_DEVKIT),
        folders=("stanfordcars",),
    ),
    "aircraft": Published(
        layout="images/*.jpg, images_variant_{train,val,test}.txt",
        marks=(*(f"images_variant_{split}.txt" for split in _THREE), "images"),
        read=partial(
            listings.listed, lists={name: f"images_variant_{name}.txt" for name in _THREE}, parse=listings.aircraft
        ),
        folders=("fgvcaircraft", "fgvcaircraft2013b", "data"),
        splits=_THREE,
        metric="per-class",
    ),
    "voc07": Published(
        layout="JPEGImages/*.jpg, ImageSets/Main/CLASS_{train,val,test}.txt",
        marks=(*(f"ImageSets/Main/aeroplane_{split}.txt" for split in _THREE), "JPEGImages"),
        read=listings.voc,
        folders=("voc2007", "vocdevkit", "voc", "pascalvoc", "pascalvoc2007"),
        splits=_THREE,
        metric="mAP",
    ),
    "dtd": Published(
        layout="images/CLASS/*.jpg, labels/{train,val,test}1.txt",
        marks=(*(f"labels/{split}1.txt" for split in _THREE), "images"),
        read=partial(listings.listed, lists={name: f"labels/{name}1.txt" for name in _THREE}, parse=listings.texture),
        folders=("dtdr101",),
        splits=_THREE,
    ),
    "pets": Published(
        layout="images/*.jpg, annotations/{trainval,test}.txt",
        marks=("annotations/trainval.txt", "annotations/test.txt", "images"),
        read=partial(
            listings.listed,
            lists={"train": "annotations/trainval.txt", "test": "annotations/test.txt"},
            parse=listings.pet,
        ),
        folders=("oxfordiiitpet", "oxfordiiitpets", "oxfordpets"),
        metric="per-class",
    ),
    "caltech101": Published(
        layout="101_ObjectCategories/CLASS/*.jpg",
        marks=("101_ObjectCategories",),
        read=listings.caltech,
        metric="per-class",
    ),
    "flowers102": Published(
        layout="jpg/image_*.jpg, imagelabels.mat, setid.mat",
        marks=("imagelabels.mat", "setid.mat", "jpg"),
        read=listings.flowers,
        folders=("102flowers", "flowers", "oxfordflowers", "oxfordflowers102"),
        splits=_THREE,
        metric="per-class",
    ),
    "cub": Published(
        layout="images/CLASS/*.jpg, images.txt, train_test_split.txt",
        marks=("images.txt", "train_test_split.txt", "images"),
        read=listings.birds,
        folders=("cub200", "cub2002011"),
    ),
    "places205": Published(
        layout="data/vision/torralba/deeplearning/images256/LETTER/CLASS/*.jpg, "
        "trainvalsplit_places205/{train,val}_places205.csv",
        marks=(*(listings.PLACES_LISTS[split] for split in ("train", "val")), listings.PLACES),
        read=partial(listings.listed, lists=listings.PLACES_LISTS, parse=listings.scene, images=listings.PLACES),
        splits=("train", "val"),
    ),
    "inat18": Published(
        layout="train_val2018/KINGDOM/NUMBER/*.jpg, {train,val}2018.json",
        marks=("train2018.json", "val2018.json", "train_val2018"),
        read=listings.inaturalist,
        folders=("inat2018", "inaturalist", "inaturalist18", "inaturalist2018"),
        splits=("train", "val"),
    ),
    "inat21": Published(
        layout="{train,val}/NUMBER_KINGDOM_..._SPECIES/*.jpg",
        marks=("train/[0-9]*_*|2021_train/[0-9]*_*", "val/[0-9]*_*|2021_valid/[0-9]*_*"),
        read=partial(listings.class_folders, folders={"train": "train|2021_train", "val": "val|2021_valid"}),
        folders=("inat2021", "inaturalist", "inaturalist21", "inaturalist2021"),
        splits=("train", "val"),
    ),
    "imagenet": Published(
        layout="{train,val}/WNID/*.JPEG",
        marks=(f"train/{WNID}", f"val/{WNID}"),
        read=partial(listings.class_folders, folders={"train": "train", "val": "val"}, pattern=WNID),
        folders=imagenet.FOLDERS,
        splits=("train", "val"),
    ),
    "imagenet-real": Published(
        layout="val/ with the 50,000 images of ILSVRC 2012 by their own names, real.json",
        marks=(imagenet.VAL, imagenet.REAL),
        read=imagenet.real,
        folders=("imagenet", *imagenet.FOLDERS),
        splits=(),
    ),
    "imagenet-v2": Published(
        layout="{0..999}/*.jpeg",
        marks=("0",),
        read=imagenet.second,
        folders=("imagenetv2matchedfrequency", "imagenetv2matchedfrequencyformatval"),
        splits=(),
    ),
    "imagenet-r": Published(
        layout="WNID/*.jpg",
        marks=(WNID,),
        read=partial(listings.class_folders, pattern=WNID),
        folders=("imagenetrendition",),
        splits=(),
    ),
    "imagenet-a": Published(
        layout="WNID/*.jpg",
        marks=(WNID,),
        read=partial(listings.class_folders, pattern=WNID),
        folders=("imagenetadversarial",),
        splits=(),
    ),
    "imagenet-c": Published(
        layout="CORRUPTION/{1..5}/WNID/*.JPEG (or in blur/, digital/, extra/, noise/, weather/)",
        marks=(imagenet.CORRUPTED,),
        read=imagenet.corrupted,
        splits=(),
    ),
    "imagenet-sketch": Published(
        layout="WNID/*.JPEG",
        marks=(WNID,),
        read=imagenet.sketch,
        folders=("sketch",),
        splits=(),
    ),
    "objectnet": Published(
        layout="images/CLASS/*.png, mappings/ with its four files",
        marks=("images", *(f"mappings/{name}" for name in imagenet.MAPPINGS)),
        read=imagenet.objects,
        folders=("objectnet10",),
        splits=(),
    ),
    **{
        name: Published(
            layout=f"gnd_{name}.pkl, jpg/*.jpg",
            marks=(f"gnd_{name}.pkl", "jpg"),
            read=instances.oxford,
            splits=(instances.DATABASE, instances.QUERY),
            metric=None,
        )
        for name in ("roxford5k", "rparis6k")
    },
    **{
        name: Published(
            layout=f"ground_truth/{{{database},valset,testset}}.json, MET/, test_*/ (or in images/)",
            marks=(
                f"ground_truth/{database}.json",
                "ground_truth/valset.json",
                "ground_truth/testset.json",
                "images|MET",
            ),
            read=partial(instances.met, database=f"{database}.json"),
            folders=("met",),
            splits=_THREE,
            metric=None,
        )
        for name, database in (("met", "MET_database"), ("met-mini", "mini_MET_database"))
    },
    "amstertime": Published(
        layout="new/0000.png, ..., old/0000.jpg, ...",
        marks=instances.TIMES,
        read=instances.amstertime,
        splits=(),
        metric=None,
    ),
    "copydays": Published(
        layout="original/*.jpg, strong/*.jpg; perhaps jpegqual/{3,5,8,...}/*.jpg, crops/{10,15,20,...}/*.jpg",
        marks=(instances.ORIGINAL, instances.STRONG),
        read=instances.copydays,
        splits=(instances.ORIGINAL, *instances.ATTACKS),
        metric=None,
    ),
}


def open_published(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a split of a published set; UserError names a file that is missing, and the layout that is expected."""
    name, published, root = _found(spec)
    chosen = choose_split(spec, split, published.splits) or ""
    listing = published.read(root, chosen)
    fetch = partial(_inside_border, listing, channels) if listing.border else listing.fetch
    source = from_table(spec, listing.table, fetch, split=None, channels=channels)
    metric = published.metric
    return replace(source, splits=published.splits, metric=metric, remarks=(f"{name} in {root}", *source.remarks))


def is_published(spec: str) -> bool:
    """Tell a published set from other sources."""
    return prefix(spec).removesuffix(":") in SETS


def splits(spec: str) -> tuple[str, ...]:
    """Return the names of the splits, the default first, without a look at the images; UserError if it is not there."""
    return _found(spec)[1].splits


def place_of(spec: str) -> Path:
    """Return the folder of a published set itself; UserError if something of it is missing."""
    return _found(spec)[2]


def find_sets(root: str | Path) -> dict[str, str]:
    """Return the published sets that lie whole in a folder, or in folders below it, by their usual names: name -> spec.

    What can be measured with the data of somebody: `find_sets("/data")["food101"]` is `food101:/data/food-101`.
    """
    top = existing_folder(str(root))
    found = {}
    for name, published in SETS.items():
        names = {_plain(name), *published.folders}
        places = _places(top, names) if _plain(top.name) in names else _named(top, names)
        place = next((place for place in places if not _lacks(place, published)), None)
        if place is not None:
            found[name] = f"{name}:{place}"
    return found


def _inside_border(listing: Listing, channels: int, row: int) -> intensity.Image:
    found, cut = listing.fetch(row), slice(listing.border, -listing.border)
    assert isinstance(found, bytes)
    return decode(found, channels=channels)[:, cut, cut]


def _found(spec: str) -> tuple[str, Published, Path]:
    """Return the name of a set, how it is handed out, and its own folder."""
    name, _, folder = spec.partition(":")
    if name not in SETS:
        raise unknown_name("kind of source", name, [*SETS, *(kind.removesuffix(":") for kind in NO_PATHS)])
    published = SETS[name]
    if not folder:
        raise UserError(f"{spec} names no folder; give {name}:FOLDER, which holds {published.layout}")
    top = existing_folder(folder)
    places = [*_places(top, {_plain(name), *published.folders})]
    lacks = [_lacks(place, published) for place in places]
    best = min(range(len(places)), key=lambda number: len(lacks[number]))
    if lacks[best]:
        names = lacks[best][0].replace(WNID, "WNID").split("|")
        raise UserError(
            f"no {' or '.join(names if len(names) < _MANY else names[:1])} in {places[best]}; {name} takes the folder "
            f"with {published.layout}, or the one above it"
        )
    return name, published, places[best]


def _lacks(place: Path, published: Published) -> list[str]:
    """Return the marks that a folder does not hold."""
    return [mark for mark in published.marks if not any(next(place.glob(one), None) for one in mark.split("|"))]


def _places(folder: Path, names: set[str], deep: int = _DEEP) -> Iterator[Path]:
    """Yield a folder, and those in it that are called like the set."""
    yield folder
    if deep:
        yield from _named(folder, names, deep)


def _named(folder: Path, names: set[str], deep: int = _DEEP) -> Iterator[Path]:
    for inner in entries(folder)[1]:
        if _plain(inner) in names:
            yield from _places(folder / inner, names, deep - 1)


def _plain(name: str) -> str:
    """Return the name of a folder as everybody writes it: Food-101, food_101, food101."""
    return re.sub(r"[-_. ]", "", name.lower())
