"""A mask is what its picture shows, and what masks mean is one rule for the whole set, no guess from one file."""

import json
from pathlib import Path

import numpy
import pytest
import tifffile
from PIL import Image, ImageDraw, ImageFilter

from dinokit.annotations.masks import IGNORED, palette, read_mask
from dinokit.annotations.meaning import class_ids, described
from dinokit.core.messages import UserError

VALUES = numpy.array([[0, 1, 2], [15, 255, 1]], dtype=numpy.uint8)


def renumbered(values: numpy.ndarray, colours: list[tuple[int, int, int]]) -> Image.Image:
    """Keep the picture and count the colours that occur anew, from the last, as an optimiser may."""
    used = numpy.unique(values)[::-1]
    image = Image.fromarray(numpy.searchsorted(-used.astype(int), -values.astype(int)).astype(numpy.uint8))
    image.putpalette([channel for value in used for channel in colours[value]])
    return image


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "gif", "npy", "webp"])
def test_gray_values_are_the_same_in_every_format(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{ending}"
    if ending == "npy":
        numpy.save(path, VALUES.astype(numpy.int64))
    else:
        Image.fromarray(VALUES).save(path, lossless=True)
    assert (read_mask(path).values == VALUES).all()


def test_white_is_255_in_every_depth(tmp_path: Path) -> None:
    there = numpy.array([[False, True]])
    Image.fromarray(there).save(tmp_path / "1.png")
    numpy.save(tmp_path / "2.npy", there)
    Image.fromarray(there.astype(numpy.uint16) * 65535).save(tmp_path / "3.png")
    black_white = Image.fromarray(there.astype(numpy.uint8))
    black_white.putpalette([0, 0, 0, 255, 255, 255])
    black_white.save(tmp_path / "4.png")
    inverted = Image.fromarray((~there).astype(numpy.uint8))
    inverted.putpalette([255, 255, 255, 0, 0, 0])
    inverted.save(tmp_path / "5.gif")
    for path in sorted(tmp_path.iterdir()):
        assert read_mask(path).values.tolist() == [[0, IGNORED]], path


def test_what_is_no_number_does_not_count(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", numpy.array([[-1, 3]], dtype=numpy.int16))
    tifffile.imwrite(tmp_path / "b.tif", numpy.array([[numpy.nan, 3]], dtype=numpy.float32))
    for name in ("a.tif", "b.tif"):
        assert read_mask(tmp_path / name).values.tolist() == [[IGNORED, 3]]
    tifffile.imwrite(tmp_path / "c.tif", numpy.array([[0.5, 3]], dtype=numpy.float32))
    with pytest.raises(UserError, match="fractions, expected whole numbers"):
        read_mask(tmp_path / "c.tif")


@pytest.mark.parametrize("colours", ["voc", "youtube"])
def test_a_renumbered_palette_of_a_known_set_is_read_by_colour(colours: str, tmp_path: Path) -> None:
    known = list(palette(256))
    if colours == "youtube":
        known[:4] = [(0, 0, 0), (236, 95, 103), (249, 145, 87), (250, 200, 99)]
    values = numpy.array([[0, 1, 2], [3, 255, 1]]) if colours == "voc" else numpy.array([[0, 1, 2], [3, 3, 1]])
    renumbered(values, known).save(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png").values == values).all()
    renumbered(values, [(value // 2, 9, value // 3) for value in range(256)]).save(tmp_path / "own.png")
    assert not (read_mask(tmp_path / "own.png").values == values).all()  # a palette of one's own counts as it stands


@pytest.mark.parametrize(
    ("grays", "expected"),
    [([0, 1, 2], [0, 1, 2]), ([0, 5, 100], [0, 5, 100]), ([0, 7, 255], [0, 7, 255]), ([0, 128, 255], [2, 1, 0])],
)
def test_grays_of_a_palette_are_numbers_unless_a_person_chose_them(
    grays: list[int], expected: list[int], tmp_path: Path
) -> None:
    image = Image.fromarray(numpy.array([[2, 1, 0]], dtype=numpy.uint8))
    image.putpalette([level for gray in reversed(grays) for level in (gray, gray, gray)])
    image.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").values.tolist() == [expected]


def test_colours_of_a_known_set_have_its_numbers(tmp_path: Path) -> None:
    Image.fromarray(numpy.array(palette(256), dtype=numpy.uint8)[VALUES]).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png")
    assert mask.coloured
    assert (mask.numbers(tmp_path) == VALUES).all()
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="holds colours; expected a number in every pixel"):
        read_mask(tmp_path / "m.png").numbers(tmp_path)


def test_transparency_hides_and_is_the_mask_where_there_is_one_colour(tmp_path: Path) -> None:
    pixels = numpy.array([[[9, 8, 7, 255], [5, 5, 5, 0]]], dtype=numpy.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").values.tolist() == [[0x090807, 0]]
    Image.fromarray(numpy.array([[[255, 255], [255, 0]]], dtype=numpy.uint8), mode="LA").save(tmp_path / "b.png")
    assert read_mask(tmp_path / "b.png").values.tolist() == [[255, 0]]
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "c.png")
    assert read_mask(tmp_path / "c.png").values.tolist() == [[0x090807, 0x050505]]


def test_a_mask_is_turned_as_an_image_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(VALUES).save(tmp_path / "m.png", exif=exif)
    assert (read_mask(tmp_path / "m.png").values == numpy.rot90(VALUES, -1)).all()


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY\x01\x00\x76\x00broken", b"PK\x03\x04nothing", "complex64", "record"]
)
def test_what_is_no_mask_is_said_in_one_line(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        numpy.save(path, numpy.zeros((2, 2), dtype=[("a", int)] if content == "record" else content))
    with pytest.raises(UserError, match="cannot read the mask .*a.npy") as caught:
        read_mask(path)
    assert "\n" not in str(caught.value)


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


DISC = Image.new("L", (96, 96))
ImageDraw.Draw(DISC).ellipse([20, 25, 70, 80], fill=1)


@pytest.mark.parametrize("how", ["bilinear", "lanczos"])
@pytest.mark.parametrize("white", [64, 100, 128, 200, 254, 255])
def test_edges_are_soft_whatever_white_is(white: int, how: str, tmp_path: Path) -> None:
    hard = numpy.asarray(DISC.resize((48, 48), Image.Resampling.NEAREST)) * white
    kind = Image.Resampling.LANCZOS if how == "lanczos" else Image.Resampling.BILINEAR
    soft = numpy.asarray(DISC.point(lambda level: level * white).resize((48, 48), kind))
    paths = written(tmp_path, hard, hard, soft)
    meaning = described(tmp_path, paths)
    assert meaning.classes == ("background", "foreground")
    assert (class_ids(paths[0], meaning) == hard // white).all()
    inside = numpy.asarray(DISC.resize((48, 48), Image.Resampling.NEAREST))
    assert (class_ids(paths[2], meaning) != inside).mean() < 0.04


def test_a_picture_is_no_mask_of_classes(tmp_path: Path) -> None:
    noise = numpy.random.default_rng(0).integers(0, 2, (6, 6)).astype(numpy.uint8) * 255
    picture = Image.fromarray(noise).resize((48, 48), Image.Resampling.BICUBIC)
    with pytest.raises(UserError, match=r"1\.png has over 32 values and none of them flat"):
        described(tmp_path, written(tmp_path, SQUARE * 3, picture))


@pytest.mark.parametrize("how", ["soft", "webp", "hard"])
def test_mixtures_of_colours_are_no_classes(how: str, tmp_path: Path) -> None:
    red = Image.merge(
        "RGB", [DISC.point(lambda level: level * 255), Image.new("L", (96, 96)), Image.new("L", (96, 96))]
    )
    other = red.resize((48, 48), Image.Resampling.BILINEAR if how == "soft" else Image.Resampling.NEAREST)
    paths = written(tmp_path, red, other)
    if how == "webp":
        other.save(paths[1], "WEBP", quality=60)
    if how == "hard":
        assert described(tmp_path, paths).classes == ("#000000", "#ff0000")
    else:
        with pytest.raises(UserError, match=r"1\.png (has soft or lossy edges|brings the masks to over)"):
            described(tmp_path, paths)


def test_white_of_a_lossy_webp_is_white(tmp_path: Path) -> None:
    paths = written(tmp_path, SQUARE * 255, SQUARE * 255)
    Image.fromarray(SQUARE * 255).convert("RGB").save(paths[1], "WEBP", quality=60)
    meaning = described(tmp_path, paths)
    assert meaning.classes == ("background", "foreground")
    assert (class_ids(paths[1], meaning) != SQUARE).mean() < 0.02


def test_the_index_is_the_class_where_the_palette_is_shorter(tmp_path: Path) -> None:
    image = Image.fromarray(SQUARE * 2)
    image.putpalette([0, 0, 0])
    image.save(tmp_path / "0.png", bits=8)
    paths = [tmp_path / "0.png"]
    assert described(tmp_path, paths).classes == ("0", "1", "2")
    assert (class_ids(paths[0], described(tmp_path, paths)) == SQUARE * 2).all()


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
    with pytest.raises(UserError, match="is a JPEG or lossy WebP, which change values"):
        class_ids(tmp_path / "lossy.jpg", described(tmp_path, [tmp_path / "lossy.jpg"]))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("palettes", "expected"),
    [
        ([(0, 15, 9), (0, 15, 9)], [0, 1, 2]),  # the owner's order
        ([(0, 15, 9), (0, 9, 15)], [0, 15, 9]),
        ([(0, 15, 9), (0, 1, 2)], [0, 15, 9]),  # one was renumbered
        ([(15, 9, 0), (15, 9, 0)], [15, 9, 0]),
        ([(0, 255, 9), (0, 255, 9)], [0, 255, 9]),
    ],
)
def test_known_colours_in_one_order_of_their_own_count_by_place(
    palettes: list[tuple[int, ...]], expected: list[int], named: bool, tmp_path: Path
) -> None:
    if named:
        (tmp_path / "classes.txt").write_text("\n".join(f"c{number}" for number in range(21)))
    masks = [Image.fromarray(numpy.array([[0, 1, 2]], dtype=numpy.uint8)) for _ in palettes]
    for mask, order in zip(masks, palettes, strict=True):
        mask.putpalette([channel for number in order for channel in palette(256)[number]])
    paths = written(tmp_path, *masks)
    assert class_ids(paths[0], described(tmp_path, paths)).tolist() == [expected]


def test_a_small_soft_thing_does_not_move_what_is_white(tmp_path: Path) -> None:
    soft = Image.fromarray(SQUARE * 255).filter(ImageFilter.GaussianBlur(0.6))
    tiny = [SQUARE * 0, SQUARE * 0]
    tiny[0][5, 5], tiny[1][5, 5] = 100, 140
    paths = written(tmp_path, soft, *tiny)
    meaning = described(tmp_path, paths)
    assert meaning.white == 255
    assert [int(class_ids(path, meaning).sum()) for path in paths[1:]] == [0, 1]
