"""Features of pixels are those of the patches around them, at every stride, in bands that are the whole."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

import dinokit
from dinokit.core.messages import RunError, UserError
from dinokit.dense.pixels import Sampling, pixels, sampled
from dinokit.models.pixels import PatchPixels
from dinokit.models.vit import VisionTransformer

MakeVit = Callable[..., VisionTransformer]
PIXELS = PatchPixels(patch_size=4)
WAYS = [
    Sampling(stride=1),
    Sampling(stride=3),
    Sampling(stride=None),
    Sampling(stride=None, shifts=2),
    Sampling(stride=1, shifts=4, size=32),
    Sampling(stride=1, upsample="bilateral"),
    Sampling(stride=2, upsample="bilateral", shifts=2),
    Sampling(stride=7),
    Sampling(stride=7, upsample="bilateral", size=40),
]


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_bands_are_the_whole_and_so_is_the_file(make_vit: MakeVit, tmp_path: Path, way: Sampling) -> None:
    found = sampled(make_vit(), noise(3, 30, 21), way)
    whole = found.array()
    assert whole.shape == found.shape
    assert whole.nbytes == found.nbytes
    assert numpy.isfinite(whole).all()
    assert numpy.array_equal(numpy.concatenate([*found.bands()]), whole)
    found.save(tmp_path / "a.npy")
    kept = numpy.load(tmp_path / "a.npy", mmap_mode="r")
    assert kept.dtype == numpy.float16
    assert numpy.array_equal(kept, whole)
    assert [each.name for each in tmp_path.iterdir()] == ["a.npy"]


def test_without_a_stride_there_are_the_patches(make_vit: MakeVit) -> None:
    backbone, image = make_vit(), noise(3, 16, 24)
    with torch.no_grad():
        expected = backbone((image[None].float() / 255 - 0.5) / 0.25).patches.reshape(4, 6, -1)
    torch.testing.assert_close(
        torch.from_numpy(pixels(backbone, image, stride=None).array()), expected.half(), rtol=2**-10, atol=1e-6
    )
    assert numpy.array_equal(pixels(backbone, image, stride=4).array(), pixels(backbone, image, stride=None).array())


def test_every_pixel_of_the_picture_has_features_whatever_size_the_model_sees(make_vit: MakeVit) -> None:
    image = noise(3, 30, 21)
    assert pixels(make_vit(), image).shape == (30, 21, 16)
    assert pixels(make_vit(), image, size=8).shape == (30, 21, 16)
    assert pixels(make_vit(), image, stride=4).shape == (8, 5, 16)
    assert inspect.unwrap(pixels)(make_vit(), image, stride=numpy.int64(4)).shape == (8, 5, 16)
    assert sampled(make_vit(), image, Sampling(size=8), of=(60, 42)).shape == (60, 42, 16)


def crossing(profile: numpy.ndarray) -> float:
    """Where a rising profile passes the half, in pixels from the left edge of the image."""
    after = int((profile > 0.5).argmax())
    before = profile[after - 1]
    return float(after - 0.5 + (0.5 - before) / (profile[after] - before))


def test_shifts_find_where_an_edge_is() -> None:
    """Of a network that sees the mean of a patch: to the pixel, at every place of the edge in a patch."""
    apart = {1: 0.0, 4: 0.0}
    for edge in (12, 13, 14, 15):
        image = torch.zeros(3, 16, 32, dtype=torch.uint8)
        image[..., edge:] = 255
        for shifts in apart:
            profile = pixels(PIXELS, image, shifts=shifts).array()[8].astype(float).mean(axis=1)
            apart[shifts] = max(apart[shifts], abs(crossing(profile) - edge))
    assert apart[4] < 1e-3 < 0.3 < apart[1]


def test_a_large_picture_in_windows_is_what_it_is_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly, of a network that looks at no neighbour; its bands stay as small as they are."""
    image = noise(3, 32, 48)
    monkeypatch.setattr("dinokit.dense.strips.WINDOW", 10**6)
    whole = sampled(PIXELS, image, Sampling(stride=2)).array()
    monkeypatch.setattr("dinokit.dense.strips.WINDOW", 3)
    found = sampled(PIXELS, image, Sampling(stride=2))
    assert numpy.array_equal(found.array(), whole)
    assert max(map(len, found.bands())) == 2


def test_pictures_are_taken_as_a_model_takes_them(make_vit: MakeVit, tmp_path: Path) -> None:
    image = noise(3, 12, 8)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    same = [dinokit.pixels(make_vit(), each).array() for each in (str(tmp_path / "a.png"), image.numpy(), image)]
    assert numpy.array_equal(same[0], same[1])
    assert numpy.array_equal(same[0], same[2])


def test_a_model_is_taken_by_its_path_as_by_itself(make_run: Callable[..., Path]) -> None:
    run, image = make_run("", steps=(100,)) / "checkpoints" / "100", noise(3, 12, 8)
    found = dinokit.pixels(str(run), image)
    expected = dinokit.pixels(dinokit.load(run).to(found.backbone.device), image)
    assert found.backbone.name == str(run)
    assert numpy.array_equal(found.array(), expected.array())
    with pytest.raises(UserError, match="no model at nowhere"):
        dinokit.pixels("nowhere", image)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"upsample": "bilinea"}, "unknown upsample 'bilinea'; did you mean 'bilinear'"),
        ({"precision": "fp8"}, "unknown precision 'fp8'; did you mean"),
        ({"precision": 16}, "unknown precision '16'"),
        ({"stride": 0}, "stride must be at least 1, or null, got 0"),
        ({"stride": 1.5}, "'stride': expected a whole number"),
        ({"size": -4}, "size must be at least 1, or null, got -4"),
        ({"size": "large"}, "'size': expected a whole number, got 'large'"),
        ({"shifts": 0}, "shifts must be at least 1, got 0"),
        ({"shifts": None}, "'shifts': expected a whole number, got None"),
    ],
)
def test_a_value_that_cannot_be_is_refused_in_a_line_before_the_model_is_opened(values: dict, line: str) -> None:
    asked = inspect.unwrap(dinokit.pixels)  # as a user calls it, without the tests' type checker
    with pytest.raises(UserError) as refused:
        asked("nowhere", "nothing.png", **values)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_cannot_be_is_said(make_vit: MakeVit) -> None:
    image = noise(3, 40, 24)
    with pytest.raises(UserError, match="shifts 3 does not divide the patch of 4 pixels; use one of 1, 2, 4"):
        pixels(make_vit(), image, shifts=3)
    with pytest.raises(UserError, match="bilateral guides features of patches to pixels; give a stride, such as 1"):
        pixels(make_vit(), image, stride=None, upsample="bilateral")
    with pytest.raises(UserError, match="stride must be at least 1, or null, got 0"):
        pixels(make_vit(), image, stride=0)
    with pytest.raises(UserError, match=r"nothing\.png"):
        pixels(make_vit(), "nothing.png")
    broken = make_vit()
    broken.norm.weight.data.fill_(torch.nan)
    with pytest.raises(RunError, match="gives features that are not finite; its weights are broken"):
        pixels(broken, image).array()
    broken.norm.weight.data.fill_(1e6)
    with pytest.raises(RunError, match="gives features that are too large for float16"):
        pixels(broken, image).array()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["", "shifts=2, upsample='bilateral', "])
def test_memory_at_4096_pixels_is_a_row_of_windows_and_a_band(tmp_path: Path, way: str) -> None:
    """The whole is 0.54 GB in float16 at every fourth pixel, 1.1 GB as it is computed; the image is 50 MB."""
    code = f"""
import resource, torch
from dinokit.dense import strips
from dinokit.dense.pixels import pixels
from dinokit.models.vit import Config, VisionTransformer
strips.WINDOW = 16
backbone = VisionTransformer(Config(patch_size=64, dim=256, depth=1, heads=2, ffn_hidden=128, registers=0)).eval()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
image = torch.zeros(3, 4096, 4096, dtype=torch.uint8)
for _ in pixels(backbone, image[:, :1024, :1024], {way}stride=4).bands():
    pass
small, found = peak(), pixels(backbone, image, {way}stride=4)
assert found.nbytes > 5e8
found.save({str(tmp_path / "a.npy")!r})
print(small, peak() - small)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    _, more = map(float, done.stdout.split())  # megabytes beyond what one window takes
    assert more < 200, more
    kept = numpy.load(tmp_path / "a.npy", mmap_mode="r")
    assert kept.shape == (1024, 1024, 256)
