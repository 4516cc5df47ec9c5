"""Every kind of file becomes pixels of its own depth or one clear reason."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dinokit.core.messages import BadImage
from dinokit.images import intensity
from dinokit.images.decode import decode, shown_size, size_of
from tests.images.hostile import deep_png, npy, tiff, tiff_file

RED = (255, 0, 0)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_rgb_comes_back_exactly(kind: str) -> None:
    image = _noise(5, 7)
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode(_encoded(image, kind, **options))
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(image))


def test_the_number_of_channels_is_the_wanted_one() -> None:
    gray, rgb = _encoded(Image.new("L", (4, 3), 100), "PNG"), _encoded(Image.new("RGB", (4, 3), RED), "PNG")
    assert decode(gray, channels=1).shape == (1, 3, 4)
    assert decode(gray, channels=3).flatten(1).tolist() == [[100] * 12] * 3
    assert decode(rgb, channels=1).unique().tolist() == [76]  # 0.299 * 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_transparent_pixels_are_white(mode: str) -> None:
    if mode in ("RGBA", "LA"):
        image = Image.new("LA", (2, 1), (0, 255))
        image.putpixel((0, 0), (0, 0))
        data = _encoded(image.convert(mode), "PNG")
    else:  # one colour, here 7, is declared transparent
        image = Image.new("L", (2, 1), 0)
        image.putpixel((0, 0), 7)
        if mode == "P":
            image.putpalette([value for level in range(256) for value in (level, level, level)])
        data = _encoded(
            image if mode == "P" else image.convert(mode), "PNG", transparency=(7, 7, 7) if mode == "RGB" else 7
        )
    assert decode(data)[0].tolist() == [[255, 0]]


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    data = _encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG")
    assert decode(data).flatten().tolist() == [127] * 3


def test_cmyk_becomes_rgb() -> None:
    pixels = decode(_encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    red, green, blue = pixels.float().mean(dim=(1, 2)).tolist()
    assert red > 240
    assert max(green, blue) < 15


def _deep(channels: int) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 65536, (5, 7, channels), dtype=np.uint16)


def _assert_exact(pixels: torch.Tensor, values: np.ndarray) -> None:
    """Check that the 16 bits of [height, width, channel] are all there, 65535 as 1.0."""
    assert pixels.dtype == torch.float32
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), values.astype(np.float32) / np.float32(65535))


def test_sixteen_bits_of_gray_are_kept() -> None:
    values = np.array([[0, 257, 32896, 65534, 65535]], dtype=np.uint16)
    for data in (_encoded(Image.fromarray(values), "PNG"), _encoded(Image.fromarray(values), "TIFF"), npy(values)):
        _assert_exact(decode(data, channels=1), values[:, :, None])
        _assert_exact(decode(data), np.repeat(values[:, :, None], 3, axis=2))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_sixteen_bits_of_colour_are_kept(order: str, compression: str | None) -> None:
    values = _deep(3)
    _assert_exact(decode(deep_png(values)), values)
    _assert_exact(decode(npy(values.astype(f"{order}u2"))), values)
    options = {"photometric": "rgb", "byteorder": order, "compression": compression}
    _assert_exact(decode(tiff(values, **options)), values)
    planes = tiff(np.ascontiguousarray(values.transpose(2, 0, 1)), planarconfig="separate", **options)
    _assert_exact(decode(planes), values)
    alpha = tiff(_deep(4), extrasamples=["unassalpha"], **options)
    _assert_exact(decode(alpha, channels=4), _deep(4))


@pytest.mark.parametrize("channels", [2, 4])
def test_deep_transparency_is_laid_on_white(channels: int) -> None:
    values = _deep(channels)
    colour, alpha = values[:, :, :-1] / 65535, values[:, :, -1:] / 65535
    pixels = decode(deep_png(values), channels=None).permute(1, 2, 0).numpy()
    assert np.abs(pixels - (colour * alpha + 1 - alpha)).max() < 1e-6
    _assert_exact(decode(deep_png(values), channels=channels), values)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_deep_colour_that_is_declared_transparent_is_white(channels: int) -> None:
    values = _deep(channels)
    pixels = decode(deep_png(values, transparent=values[2, 3].astype(">u2").tobytes()), channels=channels)
    values[2, 3] = 65535
    _assert_exact(pixels, values)


def test_twelve_bits_have_their_own_white() -> None:
    data = tiff_file(24, 24, samples=1, bits=12)
    triples = np.frombuffer(data[8 : 8 + 24 * 36], dtype=np.uint8).reshape(-1, 3).astype(int)  # two pixels each
    left, right = triples[:, 0] * 16 + triples[:, 1] // 16, triples[:, 1] % 16 * 256 + triples[:, 2]
    expected = np.stack([left, right], axis=1).reshape(24, 24) / 4095
    assert np.abs(decode(data, channels=1)[0].numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_eight_bits_in_a_file_of_sixteen_are_the_same_picture(channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 5, channels), dtype=np.uint8)
    twin = decode(_encoded(Image.fromarray(values[:, :, 0] if channels == 1 else values), "PNG"))
    deep = decode(deep_png(values.astype(np.uint16) * 257))
    # with transparency, Pillow rounds to 8 bits
    assert (deep - intensity.to_unit(twin)).abs().max() <= (0 if channels in (1, 3) else 1 / 255)


def test_the_orientation_of_deep_colours_is_applied() -> None:
    values = _deep(3)
    turned = tiff(values, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    _assert_exact(decode(turned), np.rot90(values, -1))


def test_floats_are_taken_as_they_are() -> None:
    values = np.array([[-40.0, 0.0, 0.5, 120.0]], np.float32)
    for data in (_encoded(Image.fromarray(values), "TIFF"), npy(values), npy(values.astype(">f8"))):
        assert decode(data, channels=1)[0].tolist() == values.tolist()
        assert decode(data)[2].tolist() == values.tolist()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e19])
def test_numbers_without_a_meaning_are_bad(wrong: float) -> None:
    values = np.array([[0.0, wrong]], np.float32)
    for data in (_encoded(Image.fromarray(values), "TIFF"), npy(values), npy(values[:, :, None])):
        with pytest.raises(BadImage, match="float image with"):
            decode(data)


def test_signed_and_logical_values_have_their_range() -> None:
    assert decode(npy(np.array([[-32767, 32767]], np.int16)), channels=1)[0].tolist() == [[-1, 1]]
    assert decode(tiff(np.array([[-32767, 32767]], np.int16)), channels=1)[0].tolist() == [[-1, 1]]
    assert decode(npy(np.array([[False, True]])), channels=1)[0].tolist() == [[0, 255]]
    for data in (npy(np.zeros((2, 2), np.int64)), tiff(np.zeros((2, 2), np.int32))):
        with pytest.raises(BadImage, match="expected integers of 8 or 16 bits, or floats; got int"):
            decode(data)


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((5, 7), 1, (1, 5, 7)),
        ((5, 7), 3, (3, 5, 7)),
        ((5, 7, 13), 13, (13, 5, 7)),
        ((13, 5, 7), 13, (13, 5, 7)),
        ((4, 7, 4), 4, (4, 4, 7)),  # both fit: the last
        ((8, 32, 13), 13, (13, 8, 32)),
        ((1, 5, 7), 3, (3, 5, 7)),
        ((5, 7, 3), 1, (1, 5, 7)),
        ((4, 50, 70), None, (4, 50, 70)),
        ((50, 70, 4), None, (4, 50, 70)),
    ],
)
def test_axes_of_an_array(shape: tuple[int, ...], channels: int | None, expected: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = decode(npy(values), channels=channels)
    assert tuple(pixels.shape) == expected
    if expected[0] == 13:
        assert np.array_equal(pixels.numpy(), values if shape[0] == 13 else values.transpose(2, 0, 1))


def test_an_array_is_believed_only_if_the_bytes_are_there() -> None:
    data = npy(np.zeros((8, 8), np.uint8))
    huge = data.replace(b"(8, 8), }" + b" " * 12, b"(88888888888, 8), }  ")
    assert len(huge) == len(data)
    for broken in (huge, data[:-1], data + b"x"):
        with pytest.raises(BadImage, match="the file holds"):
            decode(broken)
    with pytest.raises(BadImage, match="Python objects"):
        decode(npy(np.array([[None]])))
    with pytest.raises(BadImage, match="2 or 3 axes"):
        decode(npy(np.zeros((1, 2, 3, 4))))


@pytest.mark.parametrize("channels", [2, 5, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiffs_of_many_channels(channels: int, dtype: type[np.generic]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (9, 8, channels)).astype(dtype)
    planes = np.ascontiguousarray(values.transpose(2, 0, 1))
    for data in (
        tiff(values, photometric="minisblack", planarconfig="contig"),
        tiff(planes, photometric="minisblack", planarconfig="separate", compression="deflate"),
        tiff(planes, photometric="minisblack", imagej=True, metadata={"axes": "CYX"}),  # pages
    ):
        pixels = decode(data, channels=channels)
        assert pixels.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
        expected = planes / 65535 if dtype == np.uint16 else planes
        assert np.abs(pixels.numpy() - expected).max() < 1e-6
        with pytest.raises(BadImage, match=f"{channels + 2} channels wanted"):
            decode(data, channels=channels + 2)


def test_other_numbers_of_channels_are_taken_as_stored() -> None:
    data = _encoded(Image.new("RGBA", (3, 2), (1, 2, 3, 4)), "PNG")
    assert decode(data, channels=4)[:, 0, 0].tolist() == [1, 2, 3, 4]
    with pytest.raises(BadImage, match="5 channels"):
        decode(data, channels=5)


def test_exif_orientation_is_applied() -> None:
    image = Image.new("L", (4, 2), 0)
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    pixels = decode(_encoded(image, "PNG", exif=exif), channels=1)
    assert pixels.shape == (1, 4, 2)
    assert pixels[0, 0].tolist() == [0, 255]


def test_large_jpegs_are_decoded_small_but_never_too_small() -> None:
    data = _encoded(_noise(400, 600), "JPEG")
    assert decode(data).shape == (3, 400, 600)
    assert decode(data, min_side=100).shape == (3, 100, 150)
    assert decode(data, min_side=101).shape == (3, 200, 300)
    assert decode(data, min_side=500).shape == (3, 400, 600)


def test_the_content_decides_not_the_extension(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "photo.jpg"
    path.write_bytes(_encoded(Image.new("RGB", (2, 2), RED), "PNG"))
    assert decode(path.read_bytes())[0].unique().tolist() == [255]


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("L", (2, 2), value) for value in (50, 200)]
    assert decode(_encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))[0, 0, 0] == 50


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image"),
        (_encoded(_noise(64, 64), "JPEG")[:900], "truncated"),
        (_encoded(_noise(64, 64), "PNG")[:900], "truncated"),
    ],
)
def test_bad_files_give_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(data)


@pytest.mark.parametrize(("limit", "bad"), [(15, True), (20, False), (40, False)])
def test_decompression_bombs_are_bad_and_warnings_are_not(
    monkeypatch: pytest.MonkeyPatch, limit: int, bad: bool
) -> None:
    data = _encoded(Image.new("L", (8, 4)), "PNG")  # 32 pixels; Pillow warns beyond its limit and fails beyond twice
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    if not bad:
        assert decode(data).shape == (3, 4, 8)
        return
    with pytest.raises(BadImage, match="Bomb"):
        decode(data)


def _outcome(data: bytes) -> str:
    try:
        return f"{decode(data).shape[0]} channels"
    except BadImage as error:
        return str(error)


def test_flipped_bytes_never_raise_anything_else() -> None:
    generate = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = np.frombuffer(_encoded(_noise(16, 16), kind), dtype=np.uint8)
        for _ in range(30):
            broken = whole.copy()
            broken[generate.integers(0, len(whole), 4)] = generate.integers(0, 256, 4)
            outcome = _outcome(broken.tobytes()[: generate.integers(1, len(whole) + 1)])
            assert "\n" not in outcome
            assert " object at 0x" not in outcome  # memory addresses would make equal runs differ


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
def test_the_size_is_read_off_the_header_alone(kind: str) -> None:
    data = _encoded(_noise(30, 70), kind)
    assert size_of(data) == (70, 30)
    if kind == "PNG":
        assert size_of(data[:60]) == (70, 30)  # the pixels are cut off
    with pytest.raises(BadImage):
        size_of(b"no picture")


def test_an_array_counts_its_bytes_and_a_tiff_of_bands_its_pixels() -> None:
    array = npy(np.zeros((8, 9, 3), np.uint8))
    assert size_of(array) == (len(array), 1)
    bands = tiff(np.zeros((6, 7, 5), np.float32), photometric="minisblack", planarconfig="contig")
    assert size_of(bands) == (7, 6)


@pytest.mark.parametrize("turn", [None, 1, 6, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_size_that_is_shown_is_that_of_the_decoded_picture(kind: str, turn: int | None) -> None:
    buffer, about = io.BytesIO(), Image.Exif()
    if turn is not None:
        about[274] = turn
    Image.new("RGB", (20, 12)).save(buffer, kind, exif=about)
    height, width = decode(buffer.getvalue()).shape[1:]
    assert shown_size(buffer.getvalue()) == (width, height)
    assert {width, height} == {20, 12}
