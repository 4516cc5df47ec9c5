"""What masks mean is a rule for the whole set: black and white, numbers or colours, and never a guess from one file."""

import json
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageFilter

from dinokit.annotations.classes import class_ids, described
from dinokit.annotations.masks import palette
from dinokit.core.errors import UserError

SQUARE = numpy.zeros((24, 32), dtype=numpy.uint8)
SQUARE[4:20, 8:24] = 1


def written(folder: Path, *masks: Image.Image | numpy.ndarray) -> list[Path]:
    paths = []
    for number, mask in enumerate(masks):
        paths.append(folder / f"{number}.png")
        (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(paths[-1])
    return paths


def jpeg(folder: Path, values: numpy.ndarray) -> Image.Image:
    Image.fromarray(values).save(folder / "lossy.jpg", quality=70)
    with Image.open(folder / "lossy.jpg") as image:
        image.load()
    return image


@pytest.mark.parametrize("beside", ["1 bit", "0 and 1", "soft", "resized", "jpeg", "palette", "none", "all"])
def test_black_and_white_is_one_thing_however_it_was_saved(beside: str, tmp_path: Path) -> None:
    white = Image.fromarray(SQUARE * 255)
    small = white.resize((16, 12), Image.Resampling.NEAREST)
    other = {
        "1 bit": Image.fromarray(SQUARE.astype(bool)),
        "0 and 1": Image.fromarray(SQUARE),
        "soft": white.filter(ImageFilter.GaussianBlur(0.6)),
        "resized": small.resize((32, 24), Image.Resampling.BICUBIC),
        "jpeg": jpeg(tmp_path, SQUARE * 255),
        "palette": Image.fromarray(1 - SQUARE),
        "none": Image.new("L", (32, 24)),
        "all": Image.new("L", (32, 24), 255),
    }[beside]
    if beside == "palette":
        other.putpalette([255, 255, 255, 0, 0, 0])
    paths = written(tmp_path, white, other)
    if beside == "jpeg":
        paths[1].write_bytes((tmp_path / "lossy.jpg").read_bytes())
    meaning = described(tmp_path, paths)
    assert meaning.classes == ("background", "foreground")
    expected = {"none": SQUARE * 0, "all": SQUARE * 0 + 1}.get(beside, SQUARE)
    wrong = class_ids(paths[1], meaning) != expected
    assert wrong.mean() < (0.06 if beside in ("soft", "resized", "jpeg") else 1e-9)
    assert (class_ids(paths[0], meaning) == SQUARE).all()


def test_zero_and_128_is_black_and_white_too(tmp_path: Path) -> None:
    paths = written(tmp_path, SQUARE * 128, SQUARE * 128)
    assert described(tmp_path, paths).classes == ("background", "foreground")
    assert (class_ids(paths[0], described(tmp_path, paths)) == SQUARE).all()
    with pytest.raises(UserError, match=r"128 in .*[01].png and 255 in .*2.png; say in classes.json"):
        described(tmp_path, [*paths, *written(tmp_path, SQUARE * 128, SQUARE * 128, SQUARE * 255)[2:]])


def test_255_is_void_where_any_mask_holds_it_beside_classes(tmp_path: Path) -> None:
    void = SQUARE.copy()
    void[0] = 255
    paths = written(tmp_path, void, SQUARE * 255, SQUARE)
    meaning = described(tmp_path, paths)
    assert meaning.classes == ("0", "1")
    assert set(numpy.unique(class_ids(paths[1], meaning)).tolist()) == {0, 255}


def test_thin_classes_are_no_soft_edges(tmp_path: Path) -> None:
    poles = SQUARE * 0
    poles[:, 5], poles[:, 15], poles[:, 25], poles[10:] = 1, 2, 3, 255
    assert described(tmp_path, written(tmp_path, poles)).classes == ("0", "1", "2", "3")
    lone, fields = SQUARE * 0, SQUARE * 0
    lone[:, 5], lone[:, 15], lone[10:] = 90, 100, 255
    fields[:10], fields[10:] = 90, 100
    assert len(described(tmp_path, written(tmp_path, lone, fields)).classes) == 101


def test_soft_masks_among_numbers_are_refused_by_name(tmp_path: Path) -> None:
    soft = Image.fromarray(SQUARE * 255).filter(ImageFilter.GaussianBlur(0.6))
    with pytest.raises(UserError, match=r"1\.png has soft or lossy edges.*0\.png holds numbers") as caught:
        described(tmp_path, written(tmp_path, SQUARE * 3, soft))
    assert "\n" not in str(caught.value)


def test_two_names_are_those_of_black_and_white(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("ground\nship\n")
    paths = written(tmp_path, SQUARE * 255)
    meaning = described(tmp_path, paths)
    assert meaning.classes == ("ground", "ship")
    assert (class_ids(paths[0], meaning) == SQUARE).all()


def colours(*used: int) -> numpy.ndarray:
    """Four columns of VOC's colours."""
    return numpy.array(palette(256), dtype=numpy.uint8)[numpy.array([used]).repeat(6, axis=1).repeat(6, axis=0)]


def test_vocs_border_among_its_colours_does_not_count(tmp_path: Path) -> None:
    paths = written(tmp_path, colours(0, 15, 255), colours(0, 7, 255))
    meaning = described(tmp_path, paths)
    assert meaning.classes == ("#000000", "#808080", "#c08080")
    assert numpy.unique(class_ids(paths[0], meaning)).tolist() == [0, 2, 255]


def test_classes_json_names_colours_that_do_not_count(tmp_path: Path) -> None:
    paths = written(tmp_path, colours(0, 15, 255))
    about = {"ground": [0, 0, 0], "person": [192, 128, 128], "ignored": [[224, 224, 192], [1, 2, 3]]}
    (tmp_path / "classes.json").write_text(json.dumps(about))
    meaning = described(tmp_path, paths)
    assert meaning.classes == ("ground", "person")
    assert numpy.unique(class_ids(paths[0], meaning)).tolist() == [0, 1, 255]


def test_colours_with_and_without_palettes_are_one_set(tmp_path: Path) -> None:
    first = Image.fromarray(numpy.array([[[9, 99, 9], [200, 0, 50]]], dtype=numpy.uint8))
    second = Image.fromarray(numpy.array([[1, 0]], dtype=numpy.uint8))
    second.putpalette([200, 0, 50, 9, 99, 9])
    paths = written(tmp_path, first, second)
    for chosen in (paths, [paths[1], *written(tmp_path, first, second, second.quantize(2))[2:]]):
        meaning = described(tmp_path, chosen)
        assert class_ids(chosen[1], meaning).tolist() == [[0, 1]]


def test_palettes_that_number_the_same_colours_differently_are_read_by_colour(tmp_path: Path) -> None:
    masks = [Image.fromarray(numpy.array([row], dtype=numpy.uint8)) for row in ([0, 1, 2], [2, 0, 1])]
    masks[0].putpalette([0, 0, 0, 9, 99, 9, 200, 0, 50])
    masks[1].putpalette([9, 99, 9, 200, 0, 50, 0, 0, 0])
    paths = written(tmp_path, *masks)
    meaning = described(tmp_path, paths)
    assert class_ids(paths[0], meaning).tolist() == class_ids(paths[1], meaning).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("classes.txt", b"", "names no classes; expected 1 to 255"),
        ("classes.txt", b"sky\nsea\nsky\nsky\n", "names 'sky' 3 times"),
        ("classes.txt", b"\n".join(b"c%d" % number for number in range(300)), "names 300 classes; expected 1 to 255"),
        ("classes.txt", "Himmel\nStraße\n".encode("latin-1"), "is no text of UTF-8"),
        ("classes.txt", "a\nb\n".encode("utf-16"), "is no text of UTF-8"),
        ("classes.json", b'{"a": [1, 2, 3], "b": [1, 2, 3]}', "gives .1, 2, 3. to 'a' and to another"),
        ("classes.json", b'{"a": [1, 2, 300]}', r"expected .red, green, blue. of 0 to 255 for 'a'"),
        ("classes.json", b'{"a": [1, 2], "ignored": 3}', "of 0 to 255 for 'a'"),
        ("classes.json", b"[" * 100_000, "is no JSON"),
        ("classes.json", b"[1, 2]", "neither a list of names nor an object"),
        ("classes.json", b"{}", "names no classes"),
    ],
)
def test_what_is_wrong_with_names_is_said_in_one_line(file: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        described(tmp_path, written(tmp_path, SQUARE))
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfsky\nsea\nsand\n")
    assert described(tmp_path, []).classes == ("sky", "sea", "sand")


def test_palettes_that_differ_in_colour_alone_keep_their_numbers(tmp_path: Path) -> None:
    gray, voc = (Image.fromarray(SQUARE * 3 + 1) for _ in range(2))
    gray.putpalette([channel for level in range(256) for channel in (level, level, level)])
    voc.putpalette([channel for colour in palette(256) for channel in colour])
    paths = written(tmp_path, gray, voc)
    meaning = described(tmp_path, paths)
    assert meaning.classes == ("0", "1", "2", "3", "4")
    assert (class_ids(paths[0], meaning) == class_ids(paths[1], meaning)).all()


def test_a_jpeg_is_no_mask_of_classes(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    jpeg(tmp_path, SQUARE)
    with pytest.raises(UserError, match="is a JPEG, which changes values"):
        class_ids(tmp_path / "lossy.jpg", described(tmp_path, [tmp_path / "lossy.jpg"]))
