"""Small copies of published sets, one builder per layout: as the archives unpack, in the folder that everybody has.

`build(name, root)` makes one below a root. Images are of one colour per class, so that any feature tells them apart.
"""

import json
import pickle
import struct
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy
from PIL import Image

from dinokit.sources.imagenet import wnids

TWO = wnids()[:2]


def build(name: str, root: Path) -> Path:
    """Make a small copy of a set below a root and return its own folder."""
    folder, builder = BUILDERS[name]
    place = root / folder
    place.mkdir(parents=True, exist_ok=True)
    builder(place)
    return place


def picture(path: Path, kind: int, number: int = 0, *, size: int = 16, border: int = 0) -> None:
    """Draw an image of the colour of its class, a little other than the next one, in a red frame perhaps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = numpy.random.default_rng([kind, number]).integers(0, 40, (size, size, 3))
    tint = numpy.random.default_rng(kind).integers(0, 200, 3)
    image = (tint + shade).astype(numpy.uint8)
    framed = numpy.full((size + 2 * border, size + 2 * border, 3), (255, 0, 0), dtype=numpy.uint8)
    framed[border : border + size, border : border + size] = image
    Image.fromarray(framed).save(path, "PNG")  # whatever the ending: what a file is, its bytes say


def text(path: Path, lines: Iterable[str]) -> None:
    """Write a text of lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def folders(top: Path, classes: Iterable[str], *, count: int = 4, ending: str = ".JPEG", first: int = 0) -> None:
    """Draw some images in a folder of each class."""
    for kind, word in enumerate(classes):
        for number in range(first, first + count):
            picture(top / word / f"{word.split('/')[-1]}_{number}{ending}", kind, number)


def food101(root: Path) -> None:
    folders(root / "images", ("apple_pie", "waffles"), count=6, ending=".jpg")
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        names = {word: [f"{word}/{word}_{number}" for number in numbers] for word in ("waffles", "apple_pie")}
        text(root / "meta" / f"{split}.txt", [name for each in names.values() for name in each])
        (root / "meta" / f"{split}.json").write_text(json.dumps(names))


def cifar10(root: Path) -> None:
    names = ["airplane", "automobile"]
    (root / "batches.meta").write_bytes(of_python_2({"label_names": names}))
    for number in range(1, 6):
        (root / f"data_batch_{number}").write_bytes(of_python_2(_batch(number, "labels")))
    (root / "test_batch").write_bytes(of_python_2(_batch(6, "labels")))


def cifar100(root: Path) -> None:
    (root / "meta").write_bytes(of_python_2({"fine_label_names": ["apple", "aquarium_fish"]}))
    for number, split in enumerate(("train", "test")):
        (root / split).write_bytes(of_python_2(_batch(number, "fine_labels")))


def as_binary(folder: Path) -> None:
    """Write the same CIFAR as the files for other languages, in place of those for Python."""
    for path in [*folder.iterdir()]:
        found = pickle.loads(path.read_bytes(), encoding="latin1")
        path.unlink()
        names = found.get("label_names", found.get("fine_label_names"))
        if names is not None:
            text(folder / ("batches.meta.txt" if "label_names" in found else "fine_label_names.txt"), names)
            continue
        head = [[7, label] for label in found["fine_labels"]] if "fine_labels" in found else found["labels"]
        records = numpy.column_stack([numpy.array(head, dtype=numpy.uint8), found["data"]])
        (folder / f"{path.name}.bin").write_bytes(records.tobytes())


def _batch(seed: int, labels: str) -> dict[str, Any]:
    shade = numpy.random.default_rng(seed).integers(0, 40, (4, 3072)).astype(numpy.uint8)
    shade[1::2] += 150
    return {"data": shade, labels: [0, 1, 0, 1]}


class _Python2(pickle._Pickler):
    """Writes as Python 2 did, in which a text is bytes."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    def save_text(self, value: str) -> None:
        self.save_bytes(value.encode("latin1"))

    dispatch[bytes] = save_bytes
    dispatch[str] = save_text


def of_python_2(value: Any) -> bytes:
    """Pickle a value as the files of CIFAR are."""
    file = BytesIO()
    _Python2(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def sun397(root: Path) -> None:
    words = ("abbey", "apartment_building/outdoor")
    for kind, word in enumerate(words):
        for number in range(4):
            picture(root / "a" / word / f"sun_{kind}{number}.jpg", kind, number)
    text(root / "ClassName.txt", [f"/a/{word}" for word in words])
    for split, numbers in (("Training", (0, 1, 2)), ("Testing", (3,))):
        text(
            root / f"{split}_01.txt",
            [f"/a/{word}/sun_{kind}{number}.jpg" for kind, word in enumerate(words) for number in numbers],
        )


def cars(root: Path) -> None:
    from scipy.io import savemat

    names = numpy.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    (root / "devkit").mkdir()
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    places = (root / "devkit" / "cars_train_annos.mat", root / "cars_test_annos_withlabels.mat")
    for split, place, count in (("train", *places[:1], 6), ("test", *places[1:], 3)):
        rows = []
        for number in range(count):
            picture(root / f"cars_{split}" / f"{number:05d}.jpg", number % 2, number)
            rows.append((1, 2, 3, 4, number % 2 + 1, f"{number:05d}.jpg"))
        kinds = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
        savemat(place, {"annotations": numpy.array(rows, dtype=kinds)})


def aircraft(root: Path) -> None:
    names = {"0034309": "A300B4", "0056978": "A300B4", "0062765": "Boeing 717", "0069400": "Boeing 717"}
    for split, first in (("train", 0), ("val", 10), ("test", 20)):
        rows = [(f"{int(name) + first:07d}", word) for name, word in names.items()]
        for number, (name, word) in enumerate(rows):
            picture(root / "data" / "images" / f"{name}.jpg", int(word == "Boeing 717"), number)
        text(root / "data" / f"images_variant_{split}.txt", [f"{name} {word}" for name, word in rows])
    text(root / "data" / "variants.txt", ["A300B4", "Boeing 717"])


def voc07(root: Path) -> None:
    """Two classes: of each split, an image of each, of both, of none, and of one with a difficult other."""
    shown = [(1, -1), (-1, 1), (1, 1), (-1, -1), (1, 0), (1, -1), (-1, 1), (0, -1)]
    lists = root / "ImageSets" / "Main"
    for number, split in enumerate(("train", "val", "test")):
        names = [f"{8 * number + place:06d}" for place in range(8)]
        for place, (name, (plane, dog)) in enumerate(zip(names, shown)):
            picture(root / "JPEGImages" / f"{name}.jpg", 3 * (plane > 0) + 5 * (dog > 0), 8 * number + place)
        text(lists / f"{split}.txt", names)
        for column, word in enumerate(("aeroplane", "dog")):
            text(lists / f"{word}_{split}.txt", [f"{name} {row[column]:2d}" for name, row in zip(names, shown)])


def dtd(root: Path) -> None:
    folders(root / "images", ("banded", "zigzagged"), count=6, ending=".jpg")
    for split, numbers in (("train", (0, 1)), ("val", (2, 3)), ("test", (4, 5))):
        text(
            root / "labels" / f"{split}1.txt",
            [f"{word}/{word}_{number}.jpg" for word in ("banded", "zigzagged") for number in numbers],
        )


def pets(root: Path) -> None:
    words = ("Abyssinian", "american_bulldog")
    for split, numbers in (("trainval", range(4)), ("test", range(4, 6))):
        for number in numbers:
            for kind, word in enumerate(words):
                picture(root / "images" / f"{word}_{number}.jpg", kind, number)
        text(
            root / "annotations" / f"{split}.txt",
            [f"{word}_{number} {kind + 1} {kind + 1} 1" for kind, word in enumerate(words) for number in numbers],
        )


def caltech101(root: Path) -> None:
    top = root / "101_ObjectCategories"
    folders(top, ("BACKGROUND_Google", "accordion"), count=33, ending=".jpg")
    folders(top, ("yin_yang",), count=31, ending=".jpg")


def flowers102(root: Path) -> None:
    from scipy.io import savemat

    labels = [1, 2, 1, 2, 1, 2, 1, 2, 10]
    for number, label in enumerate(labels, start=1):
        picture(root / "jpg" / f"image_{number:05d}.jpg", label, number)
    savemat(root / "imagelabels.mat", {"labels": [labels]})
    savemat(root / "setid.mat", {"trnid": [[1, 2, 9]], "valid": [[3, 4]], "tstid": [[8, 7, 6, 5]]})


def cub(root: Path) -> None:
    words = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    folders(root / "images", words, count=5, ending=".jpg")
    paths = [f"{word}/{word}_{number}.jpg" for word in words for number in range(5)]
    text(root / "images.txt", [f"{number} {path}" for number, path in enumerate(paths, start=1)])
    learnt = [int(number % 5 > 1) for number in range(10)]
    text(root / "train_test_split.txt", [f"{number} {one}" for number, one in enumerate(learnt, start=1)])
    text(root / "image_class_labels.txt", [f"{number} {1 + (number > 5)}" for number in range(1, 11)])


def places205(root: Path) -> None:
    top = root / "data" / "vision" / "torralba" / "deeplearning" / "images256"
    words = ("a/abbey", "a/apartment_building/outdoor")
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        rows = []
        for kind, word in enumerate(words):
            for number in numbers:
                picture(top / word / f"gsun_{number}.jpg", kind, number)
                rows.append(f"{word}/gsun_{number}.jpg {kind}")
        text(root / "trainvalsplit_places205" / f"{split}_places205.csv", rows)


def inat18(root: Path) -> None:
    names = {7: "Acer rubrum", 9: "Anas crecca"}
    for first, split in ((0, "train"), (10, "val")):
        images, annotations = [], []
        for number in range(first, first + 4):
            kind = (7, 9)[number % 2]
            path = f"train_val2018/{('Plantae', 'Aves')[number % 2]}/{kind}/{number}.jpg"
            picture(root / path, kind, number)
            images.append({"id": number, "file_name": path})
            annotations.append({"image_id": number, "category_id": kind})
        categories = [{"id": kind, "name": name} for kind, name in names.items()]
        whole = {"images": images, "annotations": annotations[::-1], "categories": categories}
        (root / f"{split}2018.json").write_text(json.dumps(whole))


def inat21(root: Path) -> None:
    words = ("00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris", "00001_Animalia_b")
    folders(root / "train", words, ending=".jpg")
    folders(root / "val", words, count=2, ending=".jpg", first=10)


def imagenet(root: Path) -> None:
    folders(root / "train", TWO)
    numbers: Mapping[str, tuple[int, ...]] = {TWO[0]: (1, 3), TWO[1]: (2, 4)}
    for kind, word in enumerate(TWO):
        for number in numbers[word]:
            picture(root / "val" / word / f"ILSVRC2012_val_{number:08d}.JPEG", kind, 10 + number)


def imagenet_real(root: Path) -> None:
    imagenet(root)
    (root / "real.json").write_text(json.dumps([[0], [1, 5], [], [1]]))


def imagenet_v2(root: Path) -> None:
    folders(root, ("0", "1", "10", "2"), count=2, ending=".jpeg")


def imagenet_c(root: Path) -> None:
    for place in ("gaussian_noise", "weather/fog"):
        for severity in (1, 5):
            folders(root / place / str(severity), TWO, count=2)


def objectnet(root: Path) -> None:
    for kind, word in enumerate(("air_freshener", "alarm_clock", "band_aid")):
        for number in range(2):
            picture(root / "images" / word / f"{number}.png", kind, number, border=2)
    of_folder = {"air_freshener": "Air freshener", "alarm_clock": "Alarm clock", "band_aid": "Band Aid"}
    of_label = {"Alarm clock": "analog clock; digital clock", "Band Aid": "Band Aid"}
    names = ["tench, Tinca tinca", "digital clock", "Band Aid", "analog clock"]
    numbers = {"409": 3, "419": 2, "530": 1, "0": 0}
    top = root / "mappings"
    top.mkdir()
    (top / "folder_to_objectnet_label.json").write_text(json.dumps(of_folder))
    (top / "objectnet_to_imagenet_1k.json").write_text(json.dumps(of_label))
    (top / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps(numbers))
    text(top / "imagenet_to_label_2012_v2", names)


# a set -> where everybody has it, and what makes it
BUILDERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "food101": ("food-101", food101),
    "cifar10": ("cifar-10-batches-py", cifar10),
    "cifar100": ("cifar-100-python", cifar100),
    "sun397": ("SUN397", sun397),
    "cars": ("stanford_cars", cars),
    "aircraft": ("fgvc-aircraft-2013b", aircraft),
    "voc07": ("VOCdevkit/VOC2007", voc07),
    "dtd": ("dtd/dtd", dtd),
    "pets": ("oxford-iiit-pet", pets),
    "caltech101": ("caltech101", caltech101),
    "flowers102": ("flowers-102", flowers102),
    "cub": ("CUB_200_2011", cub),
    "places205": ("places205", places205),
    "inat18": ("inat18", inat18),
    "inat21": ("iNat2021", inat21),
    "imagenet": ("imagenet", imagenet),
    "imagenet-real": ("imagenet-real", imagenet_real),
    "imagenet-v2": ("imagenetv2-matched-frequency-format-val", imagenet_v2),
    "imagenet-r": ("imagenet-r", lambda root: folders(root, TWO, ending=".jpg")),
    "imagenet-a": ("imagenet-a", lambda root: folders(root, TWO, ending=".jpg")),
    "imagenet-c": ("ImageNet-C", imagenet_c),
    "imagenet-sketch": ("imagenet-sketch/sketch", lambda root: folders(root, TWO)),
    "objectnet": ("objectnet-1.0", objectnet),
}
