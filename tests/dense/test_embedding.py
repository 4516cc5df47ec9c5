from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from dinokit.core.messages import RunError, UserError
from dinokit.dense.embedding import encode, extract, nearest, unit
from dinokit.images.intensity import multiple, prepare
from dinokit.models.pixels import RawPixels
from dinokit.models.vit import VisionTransformer
from dinokit.sources.source import in_memory, open_source

FILES = tuple(f"{folder}/{index}.png" for folder in "ab" for index in range(5))
SIZES = ((16, 16), (20, 16), (16, 24))

MakeVit = Callable[..., VisionTransformer]
MakeFolder = Callable[..., Path]


@pytest.mark.parametrize("size", [16, None])
def test_a_row_does_not_depend_on_batches_and_threads(
    make_vit: MakeVit, make_folder: MakeFolder, size: int | None
) -> None:
    source = open_source(str(make_folder(*FILES, sizes=SIZES)))
    backbone = make_vit(size=size)
    one_by_one = extract(backbone, source, batch_size=1, workers=0)
    # float32 sums in another order: a few ulp of values around 1
    for batch_size, workers in ((3, 0), (64, 2)):
        together = extract(backbone, source, batch_size=batch_size, workers=workers)
        numpy.testing.assert_allclose(together.cls, one_by_one.cls, atol=1e-5)
        assert together.keys == one_by_one.keys == tuple(source.key(index) for index in range(len(source)))


def test_rows_are_the_backbone_of_the_prepared_image(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    source = open_source(str(make_folder(*FILES)))
    backbone = make_vit()
    result = extract(backbone, source)
    image = (source.read(7).float() / 255 - 0.5) / 0.25  # 16 px already: no resize
    with torch.no_grad():
        expected = backbone(image[None])
    torch.testing.assert_close(torch.from_numpy(result.cls[7]), expected.cls[0], atol=1e-5, rtol=0)
    assert result.labels is not None
    assert result.labels.tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize("size", [24, None])  # enlarged; as they are
def test_the_depth_of_a_file_does_not_matter(make_vit: MakeVit, tmp_path: Path, size: int | None) -> None:
    """Two pictures, each as 8-bit PNG, as 16-bit TIFF and as a float array, mixed in one batch."""
    values = numpy.random.default_rng(0).integers(0, 256, (2, 16, 16), dtype=numpy.uint8)
    for name, picture in zip("ab", values, strict=True):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        Image.fromarray(picture.astype(numpy.uint16) * 257).save(tmp_path / f"{name}.tif")
        numpy.save(tmp_path / f"{name}.npy", picture / 255)
    found = extract(make_vit(size=size), open_source(str(tmp_path)))
    assert found.keys == ("a.npy", "a.png", "a.tif", "b.npy", "b.png", "b.tif")
    a, b = found.cls[:3], found.cls[3:]
    # enlarging rounds the 8-bit twin by half a level
    tolerance = 0.02 if size else 1e-5
    assert abs(a - a[0]).max() < tolerance
    assert abs(b - b[0]).max() < tolerance
    assert abs(a - b).max() > 0.1


def test_enlarging_does_not_leave_the_range_of_a_float_image() -> None:
    steps = torch.tensor([-40.0, 120.0]).repeat_interleave(8).expand(1, 16, 16)
    image = prepare(steps, size=32, patch_size=4)
    assert (image.min(), image.max()) == (-40, 120)
    image = prepare((steps > 0).float(), size=32, patch_size=4)
    assert (image.min(), image.max()) == (0, 1)


def test_broken_images_are_listed_and_the_others_stay_aligned(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    root = make_folder(*FILES)
    whole = extract(make_vit(), open_source(str(root)))
    (root / "a" / "1.png").write_bytes(b"")
    (root / "b" / "4.png").write_bytes((root / "b" / "4.png").read_bytes()[:60])
    result = extract(make_vit(), open_source(str(root)), batch_size=3)
    assert [entry.key for entry in result.bad] == ["a/1.png", "b/4.png"]
    assert all(entry.reason for entry in result.bad)
    kept = [index for index, key in enumerate(whole.keys) if key not in ("a/1.png", "b/4.png")]
    assert result.indices.tolist() == kept
    assert result.keys == tuple(whole.keys[index] for index in kept)
    assert result.labels is not None
    assert whole.labels is not None
    assert result.labels.tolist() == whole.labels[kept].tolist()
    numpy.testing.assert_allclose(result.cls, whole.cls[kept], atol=1e-5)


def test_nothing_readable_is_the_users_error(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    root = make_folder("a.png")
    (root / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none that can be read; the first: a\.png"):
        extract(make_vit(), open_source(str(root)))


def test_broken_weights_stop_the_run(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    backbone = make_vit()
    backbone.cls_token.data.fill_(torch.nan)
    with pytest.raises(RunError, match="not finite"):
        extract(backbone, open_source(str(make_folder("a.png"))))


def test_extraction_is_frozen_and_leaves_the_mode(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    source = open_source(str(make_folder(*FILES)))
    backbone = VisionTransformer(replace(make_vit().config, drop_path=0.5), seed=0).train()
    backbone.pixels = make_vit().pixels
    assert numpy.array_equal(extract(backbone, source).cls, extract(backbone, source).cls)
    assert backbone.training


@pytest.mark.parametrize(("side", "expected"), [(1, 4), (4, 4), (5, 4), (7, 8), (17, 16), (19, 20)])
def test_a_side_goes_to_the_nearest_multiple(side: int, expected: int) -> None:
    assert multiple(side, 4) == expected


def test_native_images_keep_their_shape_and_sized_ones_are_squares() -> None:
    image = torch.zeros(3, 30, 17, dtype=torch.uint8)
    assert prepare(image, size=None, patch_size=4).shape == (3, 32, 16)
    assert prepare(image, size=14, patch_size=4).shape == (3, 16, 16)


def test_the_centre_is_kept() -> None:
    image = torch.zeros(1, 8, 24, dtype=torch.uint8)
    image[:, :, 8:16] = 200
    assert (prepare(image, size=8, patch_size=4) == 200).all()


def test_resizing_agrees_with_pillow() -> None:
    pixels = numpy.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=numpy.uint8)
    expected = numpy.array(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC))
    ours = prepare(torch.from_numpy(pixels).permute(2, 0, 1), size=16, patch_size=4).permute(1, 2, 0).numpy()
    # the two round weights differently; without antialias the difference is above 100
    assert abs(ours.astype(int) - expected.astype(int)).max() <= 1


def test_raw_pixels_pass_the_same_way() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    backbone = RawPixels(size=8)
    torch.testing.assert_close(encode(backbone, images).cls, images.flatten(1) / 255)
    numpy.testing.assert_allclose(extract(backbone, in_memory(images)).cls, images.flatten(1).numpy() / 255, atol=1e-7)


def test_bf16_products_change_little_and_say_how_little(
    make_vit: MakeVit, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source(str(make_folder(*FILES)))
    exact, rounded = (extract(make_vit(), source, precision=precision).cls for precision in ("fp32", "bf16"))
    assert rounded.dtype == numpy.float32
    assert not numpy.array_equal(exact, rounded)
    numpy.testing.assert_allclose(rounded, exact, atol=0.05)
    said = capsys.readouterr().err
    cosine = (unit(torch.from_numpy(exact)) * unit(torch.from_numpy(rounded))).sum(dim=1).min().item()
    assert f"cosine to fp32 at least {cosine:.6f} in" in said
    assert cosine < 0.999999


def test_equal_images_have_equal_rows_whatever_the_batch(make_folder: MakeFolder, make_vit: MakeVit) -> None:
    root = make_folder(*(f"{number}.png" for number in range(5)))
    for name in ("3.png", "4.png"):
        (root / name).write_bytes((root / "0.png").read_bytes())
    found = extract(make_vit(), open_source(str(root)), batch_size=2)
    for copy in (3, 4):
        assert (found.cls[copy] == found.cls[0]).all()
    assert not (found.cls[1] == found.cls[0]).all()


def test_the_nearest_are_the_first_of_equals() -> None:
    similarity = torch.tensor([[0.5, 1.0, 0.5, 0.5, 1.0], [0.1, 0.2, 0.3, 0.4, 0.5]])
    values, places = nearest(similarity, 3)
    assert places.tolist() == [[1, 4, 0], [4, 3, 2]]
    assert torch.equal(values, similarity.gather(1, places))
