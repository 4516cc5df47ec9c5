"""Every kind of file becomes uint8 pixels or one clear reason."""

import io

import numpy as np
import pytest
from PIL import Image

from dinokit.data.decode import BadImage, decode

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


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        assert decode(_encoded(Image.fromarray(values), kind), channels=1)[0].tolist() == [[0, 1, 128, 255]]


def test_float_images_use_their_range_and_nan_is_bad() -> None:
    assert decode(_encoded(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), "TIFF"))[0].tolist() == [
        [0, 128, 255]
    ]
    assert decode(_encoded(Image.fromarray(np.array([[0.0, 9.0]], np.float32)), "TIFF"))[0].tolist() == [[0, 9]]
    with pytest.raises(BadImage, match="NaN"):
        decode(_encoded(Image.fromarray(np.array([[0.0, np.nan]], np.float32)), "TIFF"))


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
