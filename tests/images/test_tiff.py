"""The same picture is the same numbers, however a TIFF lays it out and whichever library reads it."""

import io

import numpy as np
import pytest
from PIL import Image

from dinokit.core.messages import BadImage
from dinokit.images import intensity
from dinokit.images.decode import decode, stored
from tests.images.hostile import tiff


def _planes(channels: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (channels, 6, 7)).astype(dtype)


@pytest.mark.parametrize("kind", [{"ome": True}, {"imagej": True}, {}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pages_along_c_are_the_channels(kind: dict[str, bool], dtype: type) -> None:
    data = tiff(_planes(3, dtype), photometric="minisblack", metadata={"axes": "CYX"}, **kind)
    for channels in (3, None):
        white = {np.uint8: 1, np.uint16: 65535, np.float32: 1}[dtype]
        assert np.allclose(decode(data, channels=channels).numpy(), _planes(3) / white, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 4])
def test_too_many_or_too_few_pages_along_c_are_bad(channels: int) -> None:
    data = tiff(_planes(channels), photometric="minisblack", imagej=True, metadata={"axes": "CYX"})
    assert np.array_equal(decode(data, channels=channels).numpy(), _planes(channels))
    with pytest.raises(BadImage, match=f"3 channels wanted, the file holds {channels}"):
        decode(data)


@pytest.mark.parametrize("axes", ["ZCYX", "CZYX", "TZCYX", "ZYX", "TYX"])
def test_of_time_and_focus_the_first_counts(axes: str) -> None:
    lengths = {"T": 2, "Z": 4, "C": 3, "Y": 6, "X": 7}
    stack = np.random.default_rng(0).integers(0, 256, [lengths[axis] for axis in axes], dtype=np.uint8)
    first = stack[tuple(slice(None) if axis in "CYX" else 0 for axis in axes)]
    data = tiff(stack, photometric="minisblack", metadata={"axes": axes}, ome=True)
    expected = first if "C" in axes else np.repeat(first[None], 3, axis=0)
    assert np.array_equal(decode(data).numpy(), expected)


def test_pages_of_a_document_are_not_channels() -> None:
    pages = [Image.fromarray(plane) for plane in _planes(3)]
    data = _saved(pages[0], save_all=True, append_images=pages[1:])
    assert np.array_equal(decode(data).numpy(), np.repeat(_planes(3)[:1], 3, axis=0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float16, np.float64])
@pytest.mark.parametrize("channels", [3, 4])
def test_bands_in_planes_are_those_pixel_by_pixel(dtype: type, channels: int) -> None:
    planes = _planes(channels, dtype)
    separate = tiff(planes, photometric="minisblack", planarconfig="separate")
    together = tiff(np.moveaxis(planes, 0, 2), photometric="minisblack", planarconfig="contig")
    for wanted in (channels, None):
        assert np.array_equal(decode(separate, channels=wanted).numpy(), decode(together, channels=wanted).numpy())
        assert decode(separate, channels=wanted).shape == (channels, 6, 7)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_white_is_zero_in_sixteen_bits_too(order: str, compression: str | None) -> None:
    values = np.array([[0, 2570, 51400, 65535]], np.uint16)
    data = tiff(values, photometric="miniswhite", byteorder=order, compression=compression)
    assert np.allclose(decode(data, channels=1)[0, 0], [1, 0.961, 0.216, 0], atol=5e-4)
    assert stored(data).numbers[0, :, 0].tolist() == [65535, 62965, 14135, 0]


def test_white_is_zero_in_eight_bits_and_floats() -> None:
    assert decode(tiff(np.array([[0, 55]], np.uint8), photometric="miniswhite"), channels=1).flatten().tolist() == [
        255,
        200,
    ]
    assert stored(tiff(np.array([[0, 55]], np.uint8), photometric="miniswhite")).numbers.flatten().tolist() == [
        255,
        200,
    ]
    bits = stored(tiff(np.array([[False, True]]), photometric="miniswhite"))
    assert bits.numbers.flatten().tolist() == [255, 0]
    floats = tiff(np.array([[0, 0.25]], np.float32), photometric="miniswhite")
    assert decode(floats, channels=1).flatten().tolist() == [1, 0.75]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
def test_the_order_of_bytes_says_nothing(order: str, dtype: type) -> None:
    values = _planes(1, dtype)[0]
    data = tiff(values, photometric="minisblack", byteorder=order, compression="deflate")
    scale = 1 if dtype == np.float32 else np.iinfo(dtype).max
    assert np.allclose(decode(data, channels=1)[0], values / scale, atol=1e-6)


def test_planes_of_premultiplied_bytes_are_read() -> None:
    values = np.array([[[10, 0]], [[20, 0]], [[30, 0]], [[64, 0]]], np.uint8)
    data = tiff(values, photometric="rgb", planarconfig="separate", extrasamples=["assocalpha"])
    assert decode(data).permute(1, 2, 0)[0].tolist() == [[201, 211, 221], [255, 255, 255]]


def test_signed_bytes_are_signed() -> None:
    pixels = decode(tiff(np.array([[-1, 127, -127]], np.int8)), channels=1)
    assert np.allclose(pixels[0, 0], [-1 / 127, 1, -1])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_the_orientation_counts_whoever_reads(orientation: int, dtype: type) -> None:
    values = _planes(3, dtype).transpose(1, 2, 0)
    upright = decode(tiff(values, photometric="rgb"))
    turned = decode(tiff(values, photometric="rgb", extratags=[(274, 3, 1, orientation, True)]))
    method = [None, None, 0, 3, 1, 5, 4, 6, 2][orientation]  # Pillow's numbers
    expected = [Image.fromarray(band.float().numpy()) for band in upright]
    bands = [band if method is None else band.transpose(Image.Transpose(method)) for band in expected]
    assert np.array_equal(turned.float().numpy(), np.stack([np.asarray(band) for band in bands]))


@pytest.mark.parametrize(("extra", "factor"), [("unassalpha", 0.25), ("assocalpha", 1.0)])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_deep_transparency_is_laid_on_white(extra: str, factor: float, planar: str) -> None:
    values = np.array([[[0.1, 0.2, 0.05, 0.25]]]) * 65535
    values = values.astype(np.uint16) if planar == "contig" else values.astype(np.uint16).transpose(2, 0, 1)
    data = tiff(values, photometric="rgb", extrasamples=[extra], planarconfig=planar)
    expected = [factor * colour + 0.75 for colour in (0.1, 0.2, 0.05)]
    assert np.allclose(decode(data).flatten(), expected, atol=1e-4)


def _with_nodata(values: np.ndarray, nodata: str, **options: object) -> bytes:
    text = nodata.encode() + b"\0"
    return tiff(values, extratags=[(42113, 2, len(text), text, True)], **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("nodata", ["-9999", "nan"])
def test_pixels_without_data_say_nothing(dtype: type, nodata: str) -> None:
    if nodata == "nan" and dtype == np.int16:
        return
    values = np.array([[float(nodata), 2, 4]]).astype(dtype)
    scale = 32767 if dtype == np.int16 else 1
    data = _with_nodata(values, nodata)
    assert np.allclose(decode(data, channels=1).flatten() * scale, [3, 2, 4])
    holes = decode(data, channels=1, holes=True).flatten() * scale
    assert np.allclose(holes, [np.nan, 2, 4], equal_nan=True)
    assert stored(data).missing is not None


def test_a_colour_is_missing_as_a_whole_and_a_band_by_itself() -> None:
    values = np.array([[[0, 0, 0], [0, 100, 200], [50, 60, 70]]], np.uint8)
    colours = decode(_with_nodata(values, "0", photometric="rgb")).permute(1, 2, 0)[0]
    assert colours.tolist() == [[25, 80, 135], [0, 100, 200], [50, 60, 70]]
    bands = decode(_with_nodata(values, "0", photometric="minisblack", planarconfig="contig")).permute(1, 2, 0)[0]
    assert bands.tolist() == [[50, 80, 135], [50, 100, 200], [50, 60, 70]]
    with pytest.raises(BadImage, match="no pixel has data"):
        decode(_with_nodata(np.zeros((2, 2), np.uint8), "0"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_no_data_is_what_the_file_stores(dtype: type) -> None:
    inverted = stored(_with_nodata(np.array([[0, 7, np.iinfo(dtype).max]], dtype), "0", photometric="miniswhite"))
    assert inverted.missing is not None
    assert inverted.missing.flatten().tolist() == [True, False, False]
    opaque = np.array([[[0, 0, 0, 255], [0, 9, 9, 255]]], dtype)
    found = stored(_with_nodata(opaque, "0", photometric="rgb", extrasamples=["unassalpha"])).missing
    assert found is not None
    assert found.flatten().tolist() == [True, False]


def test_white_can_be_said() -> None:
    twelve = tiff(np.array([[0, 4095]], np.uint16))
    assert np.allclose(decode(twelve, channels=1).max(), 4095 / 65535)
    assert decode(twelve, channels=1, white=4095).flatten().tolist() == [0, 1]
    assert decode(tiff(np.array([[0, 1000]], np.int32)), channels=1, white=1000).flatten().tolist() == [0, 1]
    assert decode(tiff(np.array([[0, 255]], np.float32)), channels=1, white=255).flatten().tolist() == [0, 1]
    assert decode(tiff(np.array([[0, 100]], np.uint8)), channels=1, white=100).flatten().tolist() == [0, 100]
    assert intensity.to_unit(decode(tiff(np.array([[3e9]], np.uint32)), channels=1, white=3e9)).item() == 1


@pytest.mark.parametrize("scale", [255, 4095, 65535])
def test_transparency_has_the_white_of_its_colours(scale: int) -> None:
    rgba = np.array([[[0.25, 0.5, 1, 1], [0, 0.5, 1, 0.5], [0, 0, 0, 0]]]) * scale
    kept = np.array([[[0.25, 0.5, 1], [0.5, 0.75, 1], [1, 1, 1]]])
    for dtype in (np.float32, np.uint16):
        data = tiff(rgba.astype(dtype), photometric="rgb", extrasamples=["unassalpha"])
        found = decode(data, channels=3, white=scale).permute(1, 2, 0)
        assert np.allclose(found, kept, atol=3 / scale)
    floats = tiff(rgba.astype(np.float32), photometric="rgb", extrasamples=["unassalpha"])
    assert np.allclose(decode(floats, channels=3).permute(1, 2, 0), kept * scale)  # floats stay
    for opaque, dtype in ((1, np.float32), (65535, np.uint16)):  # colours have a white, transparency its own
        rgba[..., 3] = opaque
        data = tiff(rgba.astype(dtype), photometric="rgb", extrasamples=["unassalpha"])
        found = decode(data, channels=3, white=scale).permute(1, 2, 0)
        assert np.allclose(found, rgba[..., :3] / scale, atol=1 / scale)


@pytest.mark.parametrize("pages", [2, 3, 4])
def test_of_pages_in_colour_the_first_counts(pages: int) -> None:
    values = np.arange(pages * 12, dtype=np.uint8).reshape(pages, 2, 2, 3)
    assert (decode(tiff(values, photometric="rgb"), channels=3).permute(1, 2, 0).numpy() == values[0]).all()


def _saved(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", **options)
    return buffer.getvalue()
