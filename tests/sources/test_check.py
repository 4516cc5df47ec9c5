"""A check counts exactly what was put there."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinokit.commands.data import print_check
from dinokit.core.messages import UserError
from dinokit.sources.check import Spread, Unreadable, check, doubts, numbered
from dinokit.sources.source import in_memory, open_source, thinned
from tests.conftest import MakeFolder
from tests.images.hostile import deep_png, npy


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    """Nine readable images, two of them twice, and three that are not."""
    draw = np.random.default_rng(0)
    for number, (height, width) in enumerate([(20, 30), (40, 30), (300, 200), (64, 63)]):
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"a{number}.png")
    Image.new("L", (7, 9)).save(tmp_path / "b.jpg")
    Image.new("RGBA", (32, 32)).save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(deep_png(draw.integers(0, 65536, (32, 32, 3), dtype=np.uint16)))
    (tmp_path / "e.npy").write_bytes(npy(draw.random((5, 64, 64))))
    for copy, of in (("y0.png", "a0.png"), ("y1.png", "a0.png"), ("z.jpg", "a1.png")):
        (tmp_path / copy).write_bytes((tmp_path / of).read_bytes())
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "empty too.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("text")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 3])
def test_everything_is_counted(pile: Path, workers: int) -> None:
    found = check(open_source(str(pile)), workers=workers)
    assert (found.images, found.total, found.readable) == (14, 14, 11)
    assert found.unreadable == (
        Unreadable("empty too.png", "empty file (0 bytes)"),
        Unreadable("empty.png", "empty file (0 bytes)"),
        Unreadable("text.jpg", "not an image of a known format"),
    )
    assert found.bytes == sum(path.stat().st_size for path in pile.iterdir() if path.name != "text.jpg")
    assert found.width == Spread(7, 30, 200)
    assert found.height == Spread(9, 32, 300)
    assert found.short_side == {"< 8": 1, "8-31": 5, "32-63": 3, "64-127": 1, "128-255": 1}
    assert found.formats == {"PNG": 9, "JPEG": 1, "NPY": 1}  # by content: z.jpg is a PNG
    assert found.modes == {"RGB": 7, "L": 1, "RGBA": 1, "RGB;16": 1}
    assert found.channels == {"3": 9, "1": 1, "5": 1}
    assert found.depths == {"uint8": 9, "float32": 2}
    assert found.duplicates == 3
    assert found.duplicate_groups == (("a0.png", "y0.png", "y1.png"), ("a1.png", "z.jpg"))
    assert found.seconds_per_pass == pytest.approx(found.seconds)


def test_the_channels_of_a_model_make_other_images_bad(pile: Path) -> None:
    found = check(open_source(str(pile), channels=5), channels=5, workers=0)
    assert found.channels == {"5": 1}
    assert "5 channels wanted, the file holds RGBA" in [line.reason for line in found.unreadable]


def test_a_sample_is_spread_over_the_source_and_stands_for_it(pile: Path) -> None:
    found = check(open_source(str(pile)), limit=2, workers=0)
    assert (found.images, found.total, found.readable) == (2, 14, 2)  # the first and the last
    assert found.seconds_per_pass == pytest.approx(7 * found.seconds)
    assert found.duplicates == 0


def test_a_source_without_files_is_compared_by_its_pixels() -> None:
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[4] = images[1]
    found = check(in_memory(images), workers=0)
    assert found.duplicate_groups == (("1", "4"),)
    assert (found.readable, found.formats, found.bytes) == (6, {}, 6 * 3 * 64)


def test_the_files_of_several_sources_and_of_a_part_are_files(pile: Path) -> None:
    (pile / "mix.yaml").write_text(f"sources: [{{source: {pile}, weight: 1}}]")
    whole = check(open_source(str(pile)))
    for source in (open_source(str(pile / "mix.yaml")), thinned(open_source(str(pile)), None)):
        found = check(source)
        assert (found.formats, found.bytes, found.duplicates) == (whole.formats, whole.bytes, whole.duplicates)


def test_what_was_passed_over_is_part_of_the_answer(tmp_path: Path) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(b"x")
    assert check(open_source(str(tmp_path))).remarks == ("passed over: 1 .heic",)


def test_nothing_readable_is_still_an_answer(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    found = check(open_source(str(tmp_path)))
    assert (found.readable, found.width, found.short_side, found.duplicates) == (0, None, {}, 0)


def test_values_and_white_are_as_said(tmp_path: Path) -> None:
    for name, values in (("a", [[0, 4095]]), ("b", [[0, 1023]]), ("c", [[0, 1]])):
        Image.fromarray(np.array(values, np.uint16)).save(tmp_path / f"{name}.png")
    assert check(open_source(str(tmp_path))).values == (0, np.float32(4095 / 65535))
    assert check(open_source(str(tmp_path), white=4095)).values == (0, 1)
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,white\na.png,4095\nb.png,1023\nc.png,\n")
    source = open_source(str(manifest), white=2, channels=1)
    assert [float(source.read(row).max()) for row in range(3)] == [1, 1, 0.5]
    assert float(source.subset(np.array([1])).read(0).max()) == 1
    assert check(source).values == (0, 1)
    manifest.write_text("path,white\na.png,4095\nb.png,bright\n")
    with pytest.raises(UserError, match="column white"):
        open_source(str(manifest))


def test_duplicates_and_what_was_passed_over_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("red/a.png", "blue/b.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("L", (9, 9)).save(tmp_path / name)
    (tmp_path / "red" / "c.heic").write_bytes(b"x")
    print_check(check(open_source(str(tmp_path))))
    said = capsys.readouterr().out
    for line in ("the same: blue/b.png, red/a.png", "2 classes: blue, red", "passed over: 1 .heic"):
        assert line in said.splitlines()


def test_folders_need_not_be_classes(tmp_path: Path) -> None:
    for name in ("phone", "camera"):
        (tmp_path / name).mkdir()
        Image.new("L", (9, 9)).save(tmp_path / name / "a.png")
    source = open_source(str(tmp_path), labels=False)
    assert (source.labels, source.classes, check(source).remarks) == (None, (), ())
    assert source.fingerprint == open_source(str(tmp_path)).fingerprint


def test_what_labels_say_of_two_sides(make_folder: MakeFolder) -> None:
    files = ("train/a/0.png", "train/b/0.png", "train/b/1.png", "val/b/2.png", "val/c/0.png", "val/d/0.png")
    data = str(make_folder(*files))
    assert doubts(open_source(data, split="val"), open_source(data, split="train")) == [
        "classes that are only asked, with no image to answer, 2: c, d",
        "classes that are only there to answer, 1: a",
    ]
    whole = open_source(str(make_folder("a/0.png", "b/0.png", "b/1.png", name="plain")))
    assert doubts(whole, whole) == ["images without another of their class, 1: a/0.png"]
    assert doubts(open_source(data, split="train"), open_source(data, split="train")) == []


def test_an_image_with_several_classes_is_alone_if_all_of_them_are(tmp_path: Path) -> None:
    lists = {"0": ["a", "b"], "1": ["b", "c"], "2": ["d", "e"]}
    lines = [f'{{"path": "{name}.png", "label": {json.dumps(names)}}}' for name, names in lists.items()]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    source = open_source(str(tmp_path / "m.jsonl"))
    assert doubts(source, source) == ["images without another of their class, 1: 2.png"]
    assert doubts(source.subset(np.array([0])), source.subset(np.array([1, 2]))) == [
        "classes that are only asked, with no image to answer, 1: a",
        "classes that are only there to answer, 3: c, d, e",
    ]


def test_folders_named_by_numbers_are_said(make_folder: MakeFolder, tmp_path: Path) -> None:
    data = str(make_folder("2/0.png", "10/0.png"))
    assert numbered(open_source(data)).startswith("the folders of classes are numbers, 2, 10")
    assert numbered(open_source(data)) in check(open_source(data)).remarks
    assert not numbered(open_source(str(make_folder("2/0.png", "x/0.png", name="words"))))
    (tmp_path / "m.csv").write_text(f"path,label\n{data}/2/0.png,7\n{data}/10/0.png,8\n")  # a column of numbers
    assert not numbered(open_source(str(tmp_path / "m.csv")))
