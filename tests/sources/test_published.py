"""Every published layout is read as its paper has it; what is missing is named, with the layout that is expected."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from dinokit.core.messages import BadImage, UserError
from dinokit.sources.imagenet import wnids
from dinokit.sources.published import SETS, WNID, find_sets
from dinokit.sources.source import Source, absolute, open_source, same_source, splits
from dinokit.sources.table import members, undecided
from tests.sources.sets import BUILDERS, TWO, as_binary, build

COUNTS = {  # images of each split
    "food101": (8, 4),
    "cifar10": (20, 4),
    "cifar100": (4, 4),
    "sun397": (6, 2),
    "cars": (6, 3),
    "aircraft": (4, 4, 4),
    "voc07": (8, 8, 8),
    "dtd": (4, 4, 4),
    "pets": (8, 4),
    "caltech101": (60, 4),
    "flowers102": (3, 2, 4),
    "cub": (6, 4),
    "places205": (8, 4),
    "inat18": (4, 4),
    "inat21": (8, 4),
    "imagenet": (8, 4),
    "imagenet-real": (3,),
    "imagenet-v2": (8,),
    "imagenet-r": (8,),
    "imagenet-a": (8,),
    "imagenet-c": (16,),
    "imagenet-sketch": (8,),
    "objectnet": (4,),
}
CLASSES = {  # those that have images
    "food101": ("apple_pie", "waffles"),
    "cifar10": ("airplane", "automobile"),
    "cifar100": ("apple", "aquarium_fish"),
    "sun397": ("abbey", "apartment_building/outdoor"),
    "cars": ("AM General Hummer SUV 2000", "Acura RL Sedan 2012"),
    "aircraft": ("A300B4", "Boeing 717"),
    "dtd": ("banded", "zigzagged"),
    "pets": ("Abyssinian", "american_bulldog"),
    "caltech101": ("accordion", "yin_yang"),
    "flowers102": ("1", "2", "10"),
    "cub": ("001.Black_footed_Albatross", "002.Laysan_Albatross"),
    "places205": ("abbey", "apartment_building/outdoor"),
    "inat18": ("Acer rubrum", "Anas crecca"),
    "inat21": (
        "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris",
        "00001_Animalia_b",
    ),
    "imagenet": TWO,
    "imagenet-r": TWO,
    "imagenet-a": TWO,
}
METRICS = {"aircraft": "per-class", "pets": "per-class", "caltech101": "per-class", "flowers102": "per-class"}


def _words(source: Source) -> list[str]:
    assert source.labels is not None
    return [source.classes[label] for label in source.labels]


def test_every_set_has_a_small_copy() -> None:
    of_classes = [name for name, published in SETS.items() if published.metric is not None]
    assert sorted(BUILDERS) == sorted(of_classes) == sorted(COUNTS)  # the others: test_instances.py


def test_the_documented_layouts_are_those_that_are_read() -> None:
    rows = (Path(__file__).parents[2] / "docs" / "sets.md").read_text().splitlines()
    for name, published in SETS.items():
        known = ", ".join(published.splits) or "none"
        assert f"| `{name}:` | `{published.layout}` | {known} | {published.metric or 'retrieval'} |" in rows


@pytest.mark.parametrize("name", BUILDERS)
def test_a_set_is_read_split_by_split(name: str, tmp_path: Path) -> None:
    spec = f"{name}:{build(name, tmp_path)}"
    known = splits(spec)
    assert known == SETS[name].splits
    keys = list[str]()
    for split, count in zip(known or (None,), COUNTS[name], strict=True):
        source = open_source(spec, split=split)
        assert len(source) == count
        assert source.splits == known
        assert source.metric == METRICS.get(name, "mAP" if name == "voc07" else "top1")
        assert source.classes == CLASSES.get(name, source.classes)
        images = [source.read(index) for index in range(count)]
        assert {tuple(image.shape[1:]) for image in images} == {(32, 32) if "cifar" in name else (16, 16)}
        assert {each.shape[0] for each in map(open_source(spec, split=split, channels=1).read, range(2))} == {1}
        keys += [source.key(index) for index in range(count)]
        _one_colour_per_class(source, images)
    assert len(set(keys)) == len(keys)  # no image is in two splits


def _one_colour_per_class(source: Source, images: list[torch.Tensor]) -> None:
    """The small copies have it: a label that belongs to another image would show."""
    means: dict[str, list[torch.Tensor]] = {}
    for word, image in zip(_words(source), images):
        means.setdefault(word, []).append(image.float().mean(dim=(1, 2)))
    for each in means.values():
        assert (torch.stack(each).amax(dim=0) - torch.stack(each).amin(dim=0)).max() < 15


@pytest.mark.parametrize("name", BUILDERS)
def test_a_missing_file_is_named_with_the_layout(name: str, tmp_path: Path) -> None:
    place = build(name, tmp_path)
    root = place / "data" if name == "aircraft" else place
    for mark in SETS[name].marks:
        for one in mark.split("|"):
            for found in list(root.glob(one)):
                found.rename(found.with_name(f"away.{found.name}"))
        with pytest.raises(UserError) as caught:
            open_source(f"{name}:{place}")
        message = str(caught.value)
        assert f"no {mark.split('|')[0]}".replace(WNID, "WNID") in message
        assert len(message) < 400
        assert SETS[name].layout in message
        assert str(place) in message
        assert "\n" not in message
        for found in list(root.rglob("away.*")):
            found.rename(found.with_name(found.name.removeprefix("away.")))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_set_is_found_by_its_usual_folder(name: str, tmp_path: Path) -> None:
    build(name, tmp_path)
    place = find_sets(tmp_path)[name]
    assert [place] == [spec for found, spec in find_sets(tmp_path).items() if found == name]
    above = open_source(f"{name}:{tmp_path}")  # the folder above it will do
    inside = open_source(place)
    assert [above.key(index) for index in range(len(above))] == [inside.key(index) for index in range(len(inside))]


def test_only_what_is_there_whole_is_found(tmp_path: Path) -> None:
    build("food101", tmp_path)
    shutil.rmtree(build("dtd", tmp_path) / "labels")
    (tmp_path / "imagenet").mkdir()
    assert find_sets(tmp_path) == {"food101": f"food101:{tmp_path / 'food-101'}"}
    with pytest.raises(UserError, match="no folder"):
        find_sets(tmp_path / "nowhere")


def test_a_spec_means_the_same_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("food101", tmp_path)
    monkeypatch.chdir(tmp_path)
    whole = f"food101:{tmp_path}/food-101"
    assert absolute("food101:food-101") == whole
    assert same_source("food101:food-101/", whole)
    assert not same_source("food-101", whole)
    (tmp_path / "mix.yaml").write_text("sources: [{source: 'food101:food-101', weight: 1}]")
    monkeypatch.chdir("/")
    assert len(open_source(f"{tmp_path}/mix.yaml")) == 8
    assert same_source(whole.replace("food101:", "dtd:"), whole) is False


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    build("food101", tmp_path)
    for spec, pattern in {
        f"fod101:{tmp_path}": "unknown kind of source 'fod101'; did you mean 'food101'",
        "food101:": "food101: names no folder; give food101:FOLDER",
        "food101:/no/where": "no folder /no/where",
    }.items():
        with pytest.raises(UserError, match=pattern):
            open_source(spec)
    with pytest.raises(UserError, match="unknown split .* known are: test, train"):
        open_source(f"food101:{tmp_path}", split="dev")
    (tmp_path / "food-101" / "meta" / "train.txt").write_text("apple_pie/1\n\nno-class\n")
    with pytest.raises(UserError, match="line 2 of .*train.txt is 'no-class'"):
        open_source(f"food101:{tmp_path}")


def test_a_listed_image_that_is_gone_is_a_bad_image(tmp_path: Path) -> None:
    next((build("food101", tmp_path) / "images" / "waffles").glob("*_0.jpg")).unlink()
    with pytest.raises(BadImage, match="cannot open: No such file"):
        open_source(f"food101:{tmp_path}").read(0)


def test_a_source_survives_pickling(tmp_path: Path) -> None:
    for name in ("cifar10", "objectnet"):
        source = open_source(f"{name}:{build(name, tmp_path)}")
        assert torch.equal(pickle.loads(pickle.dumps(source)).read(1), source.read(1))


DAMAGE: list[tuple[str, str, bytes, str]] = [
    ("flowers102", "setid.mat", b"no table", "setid.mat is no whole table of MATLAB"),
    ("inat18", "train2018.json", b"{", "is no JSON"),
    ("inat18", "train2018.json", b"[1]", "lacks .* in images, annotations or categories"),
    ("cub", "images.txt", b"1\n", "line 1 of .*images.txt is '1', expected a number"),
    ("cub", "train_test_split.txt", b"1 1\n", "train_test_split.txt says nothing of image 2"),
    ("cub", "images.txt", b"1 001.Albatross/1.jpg\n", "images.txt says nothing of image 2"),
    ("voc07", "ImageSets/Main/dog_train.txt", b"", "dog_train.txt says nothing of .* cut short"),
    ("voc07", "ImageSets/Main/aeroplane_val.txt", b"", "aeroplane_val.txt says nothing of .* cut short"),
    ("voc07", "ImageSets/Main/dog_train.txt", b"000001 yes\n", "expected an image and 1, 0 or -1"),
    ("pets", "annotations/trainval.txt", b"\n", "no images are listed"),
    ("cifar100", "meta", b"no pickle", "meta is no whole pickle of plain values"),
    ("objectnet", "mappings/pytorch_to_imagenet_2012_id.json", b"{}", "do not fit together"),
]


@pytest.mark.parametrize(("name", "file", "damage", "pattern"), DAMAGE, ids=lambda value: str(value)[:24])
def test_a_damaged_list_is_one_line(name: str, file: str, damage: bytes, pattern: str, tmp_path: Path) -> None:
    (build(name, tmp_path) / file).write_bytes(damage)
    with pytest.raises(UserError, match=pattern) as caught:
        open_source(f"{name}:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_numbers_beyond_the_names_are_refused(tmp_path: Path) -> None:
    place = build("flowers102", tmp_path)
    savemat(place / "setid.mat", {"trnid": [[1, 10]], "valid": [[3]], "tstid": [[0]]})
    for split, number in (("train", 10), ("test", 0)):
        with pytest.raises(UserError, match=f"setid.mat holds the number {number} of 9"):
            open_source(f"flowers102:{tmp_path}", split=split)
    build("cars", tmp_path)
    without = tmp_path / "stanford_cars" / "cars_test_annos_withlabels.mat"
    savemat(without, {"annotations": np.array([("1.jpg",)], dtype=[("fname", object)])})
    with pytest.raises(UserError, match="says no class of an image"):
        open_source(f"cars:{tmp_path}", split="test")


def test_voc_names_several_classes_and_leaves_difficult_ones_open(tmp_path: Path) -> None:
    source = open_source(f"voc07:{build('voc07', tmp_path)}", split="val")
    found = members(source.classes)
    assert found is not None
    classes, named = found
    assert classes == ("aeroplane", "dog")
    wanted = [[1, 0], [0, 1], [1, 1], [0, 0], [1, 0], [1, 0], [0, 1], [0, 0]]
    assert source.labels is not None
    assert named[source.labels].astype(int).tolist() == wanted
    assert undecided(source.classes)[source.labels].astype(int).tolist() == [
        *[[0, 0]] * 4,
        [0, 1],
        *[[0, 0]] * 2,
        [1, 0],
    ]


def test_caltech_draws_thirty_of_each_class_once_and_for_all(tmp_path: Path) -> None:
    spec = f"caltech101:{build('caltech101', tmp_path)}"
    train, test = (open_source(spec, split=split) for split in ("train", "test"))
    assert np.unique(_words(train), return_counts=True)[1].tolist() == [30, 30]
    assert [test.key(index).rsplit("/")[-1] for index in range(4)] == [
        "accordion_16.jpg",
        "accordion_25.jpg",
        "accordion_26.jpg",
        "yin_yang_13.jpg",
    ]


def test_numbers_of_v2_are_places_among_the_sorted_wnids(tmp_path: Path) -> None:
    source = open_source(f"imagenet-v2:{build('imagenet-v2', tmp_path)}")
    assert source.classes == wnids()  # all are asked
    assert sorted(set(_words(source))) == [wnids()[number] for number in (0, 1, 2, 10)]
    assert source.key(6).startswith("10/")
    assert len(wnids()) == 1000
    assert list(wnids()) == sorted(set(wnids()))


def test_real_names_all_that_is_seen_and_leaves_out_what_shows_nothing(tmp_path: Path) -> None:
    place = build("imagenet-real", tmp_path)
    source = open_source(f"imagenet-real:{place}")
    known = wnids()
    assert _words(source) == [known[0], f'["{known[1]}", "{known[5]}"]', known[1]]
    assert [source.key(index)[-6] for index in range(3)] == ["1", "2", "4"]
    (place / "ILSVRC2012_img_val").mkdir()  # as the archive has it
    for path in (place / "val").glob("*/*"):
        path.rename(place / "ILSVRC2012_img_val" / path.name)
    shutil.rmtree(place / "val")
    assert _words(open_source(f"imagenet-real:{place}")) == _words(source)
    (place / "real.json").write_text("[[0], [1000]]")
    with pytest.raises(UserError, match="real.json has no list of class numbers for image 2"):
        open_source(f"imagenet-real:{place}")


def test_a_corruption_and_its_severity_are_a_domain(tmp_path: Path) -> None:
    source = open_source(f"imagenet-c:{build('imagenet-c', tmp_path)}")
    assert source.domains is not None
    kinds = np.unique(source.domains, return_counts=True)
    assert kinds[0].tolist() == ["fog/1", "fog/5", "gaussian_noise/1", "gaussian_noise/5"]
    assert kinds[1].tolist() == [4] * 4
    assert source.classes == wnids()


def test_objectnet_has_the_classes_of_imagenet_and_no_border(tmp_path: Path) -> None:
    place = build("objectnet", tmp_path)
    source = open_source(f"objectnet:{place}")
    known = wnids()
    assert _words(source) == [f'["{known[409]}", "{known[530]}"]'] * 2 + [known[419]] * 2
    with Image.open(place / "images" / source.key(0).removeprefix("images/")) as image:
        whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(source.read(0), whole[:, 2:-2, 2:-2])
    (place / "mappings" / "imagenet_to_label_2012_v2").write_text("tench\n")
    with pytest.raises(UserError, match="do not fit together"):
        open_source(f"objectnet:{place}")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_both_forms_of_cifar_are_the_same(name: str, tmp_path: Path) -> None:
    place = build(name, tmp_path)
    plain = open_source(f"{name}:{place}", split="test")
    as_binary(place)
    binary = open_source(f"{name}:{place}", split="test")
    assert _words(plain) == _words(binary)
    assert all(torch.equal(plain.read(index), binary.read(index)) for index in range(4))
    cut = place / ("test_batch.bin" if name == "cifar10" else "test.bin")
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(UserError, match="expected records of .* cut short"):
        open_source(f"{name}:{place}", split="test")


class _Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    place = build("cifar10", tmp_path)
    (place / "test_batch").write_bytes(pickle.dumps({"data": _Attack(tmp_path / "broken in"), "labels": []}))
    with pytest.raises(UserError, match="asks for (_io|io).open, which no list of images needs"):
        open_source(f"cifar10:{place}", split="test")
    assert not (tmp_path / "broken in").exists()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"data": np.zeros((2, 3072)), "labels": [0, 1]}, "no rows of 3,072 bytes with a label each"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": 2}, "no rows of 3,072 bytes with a label each"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, -1]}, "labels beyond the 2 names"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 2]}, "labels beyond the 2 names"),
    ],
)
def test_a_batch_of_something_else_is_the_users_error(batch: object, message: str, tmp_path: Path) -> None:
    place = build("cifar10", tmp_path)
    (place / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(UserError, match=message):
        open_source(f"cifar10:{place}", split="test")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Food101", {"split": "test"}),
        ("CIFAR10", {"train": False}),
        ("CIFAR100", {"train": False}),
        ("StanfordCars", {"split": "test"}),
        ("FGVCAircraft", {"split": "test"}),
        ("DTD", {"split": "test"}),
        ("OxfordIIITPet", {"split": "test"}),
        ("Flowers102", {"split": "test"}),
    ],
)
def test_torchvision_reads_the_same(
    name: str, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    ours = {
        "StanfordCars": "cars",
        "FGVCAircraft": "aircraft",
        "OxfordIIITPet": "pets",
    }.get(name, name.lower())
    build(ours, tmp_path)
    kind = getattr(datasets, name)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)  # sums of the whole set
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda *_: True)
    theirs = kind(str(tmp_path), **options)
    source = open_source(f"{ours}:{tmp_path}", split="test")
    assert len(theirs) == len(source)
    found = sorted((np.array(image.convert("RGB")).tobytes(), int(label)) for image, label in theirs)
    assert source.labels is not None
    numbers = {word: number for number, word in enumerate(getattr(theirs, "classes", source.classes))}
    mine = []
    for index, word in enumerate(_words(source)):
        word = word.replace("_", " ").title() if ours == "pets" else word
        number = int(word) - 1 if ours == "flowers102" else numbers[word]
        mine.append((source.read(index).permute(1, 2, 0).numpy().tobytes(), number))
    assert sorted(mine) == found
