"""Views have the right shapes, depend on (seed, step, position) alone, and are normalised."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.views import augment, multicrop, quick

PLAIN = augment.Config(jitter=0.0, grayscale=0.0, blur=0.0)
PIXELS = Pixels()
CONFIG = multicrop.Config(global_size=16, local_size=8, local_count=3)


def make(
    images: list[torch.Tensor], config: multicrop.Config, pixels: Pixels, **draw: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Global and local crops."""
    made = multicrop.cut(images, config, pixels, **draw).on(torch.device("cpu"))
    return made.global_crops, made.local_crops


def make_anchors(
    images: list[torch.Tensor], config: multicrop.Config, pixels: Pixels, **draw: int
) -> torch.Tensor | None:
    return multicrop.cut(images, config, pixels, **draw).on(torch.device("cpu")).anchor_crops


def _images(count: int, channels: int = 3) -> list[torch.Tensor]:
    generate = np.random.default_rng(0)
    sides = [(28, 28), (20, 30), (90, 70)]
    return [
        torch.from_numpy(generate.integers(0, 256, (channels, *sides[index % 3]), dtype=np.uint8))
        for index in range(count)
    ]


@pytest.mark.parametrize("rotate", [0.0, 20.0])
def test_shapes(rotate: float) -> None:
    global_crops, local_crops = make(_images(5), CONFIG, PIXELS, seed=0, step=0, first=0)
    assert global_crops.shape == (2, 5, 3, 16, 16)
    assert local_crops.shape == (3, 5, 3, 8, 8)
    none = make(_images(2), replace(CONFIG, local_count=0, rotate=rotate), PIXELS, seed=0, step=0, first=0)[1]
    assert none.shape == (0, 2, 3, 8, 8)


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(channels: int) -> None:
    gray = Pixels((0.5,), (0.5,))
    global_crops, local_crops = make(_images(3, channels), CONFIG, gray, seed=0, step=0, first=0)
    assert global_crops.shape == (2, 3, channels, 16, 16)
    assert torch.isfinite(local_crops).all()


def test_a_slice_of_the_batch_has_the_same_views() -> None:
    images = _images(7)
    whole = make(images, CONFIG, PIXELS, seed=5, step=9, first=0)
    part = make(images[3:6], CONFIG, PIXELS, seed=5, step=9, first=3)
    for ours, theirs in zip(part, whole):
        torch.testing.assert_close(ours, theirs[:, 3:6], atol=1e-5, rtol=0)


def test_seed_step_and_position_all_matter() -> None:
    images = _images(1) * 2
    base = make(images, CONFIG, PIXELS, seed=0, step=0, first=0)[0]
    assert torch.equal(base, make(images, CONFIG, PIXELS, seed=0, step=0, first=0)[0])
    assert not torch.equal(base[:, 0], base[:, 1])
    assert not torch.equal(base[0], base[1])
    assert not torch.equal(base, make(images, CONFIG, PIXELS, seed=1, step=0, first=0)[0])
    assert not torch.equal(base, make(images, CONFIG, PIXELS, seed=0, step=1, first=0)[0])


def test_normalisation_and_flip() -> None:
    config = replace(
        CONFIG, first=PLAIN, second=PLAIN, local=PLAIN, global_scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0
    )
    image = _images(1)[0][:, :16, :16]
    expected = (image / 255 - torch.tensor(PIXELS.mean)[:, None, None]) / torch.tensor(PIXELS.std)[:, None, None]
    straight = make([image], config, PIXELS, seed=0, step=0, first=0)[0][0, 0]
    torch.testing.assert_close(straight, expected, atol=1e-5, rtol=0)
    mirrored = make([image], replace(config, flip=1.0), PIXELS, seed=0, step=0, first=0)[0][0, 0]
    torch.testing.assert_close(mirrored, expected.flip(-1), atol=1e-5, rtol=0)


def test_each_kind_of_crop_has_its_own_distortion() -> None:
    inverted = replace(PLAIN, solarise=1.0, solarise_threshold=0.0)
    config = replace(CONFIG, first=PLAIN, second=PLAIN, local=PLAIN)
    plain = Pixels((0.0,), (1.0,))
    base = make(_images(2), config, plain, seed=0, step=0, first=0)
    for field, touched in (("first", (1, 0, 0)), ("second", (0, 1, 0)), ("local", (0, 0, 1))):
        changed = make(_images(2), replace(config, **{field: inverted}), plain, seed=0, step=0, first=0)
        pairs = [(base[0][0], changed[0][0]), (base[0][1], changed[0][1]), (base[1], changed[1])]
        for (old, new), hit in zip(pairs, touched):
            torch.testing.assert_close(new, 1 - old if hit else old, atol=1e-6, rtol=0)


def test_sizes_must_fit_the_patches() -> None:
    multicrop.check_sizes(CONFIG, patch_size=8)
    with pytest.raises(UserError, match="global_size 16 is not a multiple of the patch size 7; use 14 or 21"):
        multicrop.check_sizes(CONFIG, patch_size=7)
    with pytest.raises(UserError, match=r"local_size 8 .* use 16"):
        multicrop.check_sizes(CONFIG, patch_size=16)
    multicrop.check_sizes(replace(CONFIG, local_count=0), patch_size=16)
    with pytest.raises(UserError, match="anchor_size 20 is not a multiple"):
        multicrop.check_sizes(replace(CONFIG, anchor_size=20), patch_size=8)


def test_min_side_keeps_the_smallest_crop_sharp() -> None:
    assert multicrop.Config().min_side == 430  # 96 / sqrt(0.05)
    assert replace(multicrop.Config(), local_count=0).min_side == 396  # 224 / sqrt(0.32)
    assert replace(multicrop.Config(), anchor_size=448).min_side == 792  # 448 / sqrt(0.32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"global_scale": (0.5, 0.4)},
        {"local_scale": (0.0, 0.4)},
        {"ratio": (2.0, 1.0)},
        {"flip": 2.0},
        {"local_count": -1},
        {"local_size": 4},
        {"anchor_size": -1},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        multicrop.Config(**wrong)  # type: ignore[arg-type]


def test_anchors_show_the_same_window_as_the_global_crops() -> None:
    """Halved, an anchor is the undistorted global crop; another window or flip would differ by a hundred levels."""
    config = replace(CONFIG, anchor_size=32, first=PLAIN, second=PLAIN)
    smooth = torch.nn.functional.interpolate(
        torch.stack(_images(1)[:1] * 4).float()[:, :, :6, :6], size=(150, 170), mode="bicubic"
    )
    images = list(smooth.clamp(0, 255).round().to(torch.uint8))
    plain = Pixels((0.0,), (1.0,))
    global_crops = make(images, config, plain, seed=2, step=1, first=5)[0]
    anchors = make_anchors(images, config, plain, seed=2, step=1, first=5)
    assert anchors is not None
    assert anchors.shape == (2, 4, 3, 32, 32)
    halved = torch.nn.functional.avg_pool2d(anchors.flatten(0, 1), 2).view_as(global_crops)
    assert (halved - global_crops).abs().max() < 6 / 255
    assert (halved - global_crops.flip(-1)).abs().max() > 50 / 255


def test_anchors_are_not_distorted_and_change_nothing_else() -> None:
    strong = augment.Config(jitter=1.0, grayscale=1.0, blur=1.0)
    config = replace(CONFIG, rotate=20.0, anchor_size=16)
    plain = replace(config, first=PLAIN, second=PLAIN)
    arguments = {"seed": 0, "step": 3, "first": 2}
    images = [image * 3.0 for image in _twins(3)[1]]  # beyond white
    undistorted = make(images, plain, PIXELS, **arguments)[0]
    anchors = make_anchors(images, replace(config, first=strong, second=strong), PIXELS, **arguments)
    torch.testing.assert_close(anchors, undistorted, atol=1e-5, rtol=0)
    for size in (0, 48):
        changed = make(images, replace(plain, anchor_size=size), PIXELS, **arguments)[0]
        assert torch.equal(changed, undistorted)
    assert make_anchors(images, CONFIG, PIXELS, **arguments) is None


def _twins(count: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    images = _images(count)
    return images, [image.float() / 255 for image in images]


@pytest.mark.parametrize("rotate", [0.0, 20.0])
@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_a_float_image_has_the_views_of_its_8_bit_twin(rotate: float, kernel: str) -> None:
    """With every distortion on; hue is left out, as it turns half a grey level into any colour on gray pixels."""
    strong = augment.Config(jitter=1.0, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.0, blur=1.0)
    config = replace(CONFIG, rotate=rotate, kernel=kernel, first=strong, second=strong, local=strong)
    plain = Pixels((0.0,), (1.0,))
    eight, deep = (make(images, config, plain, seed=0, step=0, first=0) for images in _twins(6))
    for ours, theirs in zip(deep, eight, strict=True):
        # rounded once or twice (a turn), then stretched by at most 1.8 three times
        assert (ours - theirs).abs().max() <= 2 * 0.51 * 1.8**3 / 255
        assert (ours - theirs).abs().mean() <= 0.5 / 255


def test_the_views_of_an_image_do_not_depend_on_the_depth_of_its_neighbours() -> None:
    config = replace(CONFIG, rotate=20.0)
    eight, deep = _twins(6)
    mixed = [deep[row] if row in (1, 4) else eight[row] for row in range(6)]
    mixed[4] = mixed[4] * 50 - 7
    whole = make(mixed, config, PIXELS, seed=3, step=1, first=0)
    for row, image in enumerate(mixed):
        alone = make([image], config, PIXELS, seed=3, step=1, first=row)
        for ours, theirs in zip(alone, whole, strict=True):
            torch.testing.assert_close(ours[:, 0], theirs[:, row], atol=2e-4, rtol=0)


@pytest.mark.parametrize(("scale", "shift"), [(200.0, 0.0), (160.0, -40.0)])
def test_values_beyond_white_are_distorted_within_their_own_range(scale: float, shift: float) -> None:
    """An image of -40 to 120 gives the views of the same image in [0, 1], with its own black and white."""
    plain = Pixels((0.0,), (1.0,))
    config = replace(CONFIG, second=replace(CONFIG.second, solarise=1.0))
    images = [(image - image.min()) / (image.max() - image.min()) for image in _twins(3)[1]]
    base = make(images, config, plain, seed=0, step=0, first=0)
    wide = make([image * scale + shift for image in images], config, plain, seed=0, step=0, first=0)
    for ours, theirs in zip(wide, base, strict=True):
        torch.testing.assert_close((ours - shift) / scale, theirs, atol=1e-4, rtol=0)
        assert ours.max() > 0.9 * (scale + shift)


MIXED = replace(
    CONFIG,
    sizes=(
        multicrop.Sizes(global_size=16, local_size=8, share=3.0),
        multicrop.Sizes(global_size=24, local_size=16, share=1.0),
    ),
)


def test_every_step_has_the_crops_of_one_size() -> None:
    drawn = [MIXED.at(4, step) for step in range(400)]
    assert {(config.global_size, config.local_size) for config in drawn} == {(16, 8), (24, 16)}
    assert 260 < sum(config.global_size == 16 for config in drawn) < 340
    assert all(not config.sizes for config in drawn)
    assert [MIXED.at(4, step) for step in range(400)] == drawn  # of seed and step alone
    assert [MIXED.at(5, step) for step in range(400)] != drawn


def test_images_are_read_large_enough_for_the_largest_size() -> None:
    assert MIXED.min_side == replace(CONFIG, global_size=24, local_size=16).min_side


def test_every_size_must_fit_the_patches() -> None:
    sizes = (multicrop.Sizes(global_size=16, local_size=8), multicrop.Sizes(global_size=32, local_size=20))
    with pytest.raises(UserError, match="local_size 20 is not a multiple of the patch size 8; use 16 or 24"):
        multicrop.check_sizes(replace(CONFIG, sizes=sizes), patch_size=8)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([{"anchor_size": 32}, {}], "an anchor_size each, or none"),
        ([{"share": 0.0}, {}], "must be above 0"),
        ([{"share": float("nan")}], "must be above 0"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(sizes: list[dict[str, float]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(CONFIG, sizes=tuple(multicrop.Sizes(global_size=16, local_size=8, **size) for size in sizes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("release", "code", "why"),
    [
        ("0.62.1", "raise ImportError('Numba needs NumPy 2.2 or less')", "numba cannot be imported: Numba needs NumPy"),
        ("0.62.1", "raise OSError('no libllvmlite.so')", "numba cannot be imported: no libllvmlite.so; torch makes"),
        ("0.59.1", "", "numba is 0.59.1, older than 0.60; torch makes the views"),
    ],
)
def test_a_numba_that_cannot_be_used_is_one_line(
    release: str,
    code: str,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "numba.py").write_text(code)
    (tmp_path / "numba-1.dist-info").mkdir()
    (tmp_path / "numba-1.dist-info" / "METADATA").write_text(f"Name: numba\nVersion: {release}\n")
    for name in ("numba", "dinokit.views.compiled"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    quick.usable.cache_clear()
    try:
        for step in range(2):
            assert make(_images(2), CONFIG, PIXELS, seed=0, step=step, first=0)[0].isfinite().all()
        assert not quick.usable()
    finally:
        quick.usable.cache_clear()
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line


def test_the_oldest_numba_is_that_of_the_extra() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'fast = ["numba>={".".join(map(str, quick.NUMBA))}"]' in project
