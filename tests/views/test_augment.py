"""The operations are torchvision's; drawing follows the stated probabilities; only the chosen images change."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.views import augment

functional = pytest.importorskip("torchvision.transforms.v2.functional")

SAMPLES = 6


def _images(channels: int = 3, side: int = 12) -> torch.Tensor:
    images = torch.rand(SAMPLES, channels, side, side, generator=torch.Generator().manual_seed(0))
    images[0, :, :3] = 0.5  # grey pixels: hue undefined
    images[1, :, :3] = 1.0
    images[2, 1:, :3] = 0.0
    return images


def _each(name: str, images: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.stack([getattr(functional, name)(image, float(value)) for image, value in zip(images, values)])


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factors_equal_torchvision(name: str) -> None:
    factors = torch.linspace(0, 2, SAMPLES)
    ours = getattr(augment, name)(_images(), factors)
    torch.testing.assert_close(ours, _each(f"adjust_{name}", _images(), factors), atol=2e-6, rtol=0)


def test_hue_equals_torchvision() -> None:
    shifts = torch.linspace(-0.5, 0.5, SAMPLES)
    torch.testing.assert_close(
        augment.hue(_images(), shifts), _each("adjust_hue", _images(), shifts), atol=5e-6, rtol=0
    )


def test_grayscale_and_solarise_equal_torchvision() -> None:
    gray = functional.rgb_to_grayscale(_images(), num_output_channels=3)
    torch.testing.assert_close(augment.grayscale(_images()), gray, atol=1e-6, rtol=0)
    threshold = 128 / 255
    assert torch.equal(augment.solarise(_images(), threshold=threshold), functional.solarize(_images(), threshold))


@pytest.mark.parametrize(("taps", "side"), [(9, 12), (9, 5), (17, 12), (1, 3)])
def test_blur_equals_torchvision(taps: int, side: int) -> None:
    sigmas = torch.linspace(0.1, 2, SAMPLES)
    images = _images(side=side)
    theirs = [functional.gaussian_blur(image, [taps, taps], [float(s)] * 2) for image, s in zip(images, sigmas)]
    torch.testing.assert_close(augment.blur(images, sigmas, taps=taps), torch.stack(theirs), atol=2e-6, rtol=0)


def test_the_whole_chain_equals_torchvision_in_the_drawn_order() -> None:
    config = augment.Config(solarise=0.5)
    drawn = augment.draw(config, np.random.default_rng(0).random((SAMPLES, augment.DRAWS)))
    names = ["adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue"]
    expected = []
    for index, image in enumerate(_images()):
        for number in drawn.order[index] if drawn.jitter[index] else []:
            image = getattr(functional, names[number])(image, float(drawn.strength[index, number]))
        if drawn.grayscale[index]:
            image = functional.rgb_to_grayscale(image, num_output_channels=3)
        if drawn.blur[index]:
            image = functional.gaussian_blur(image, [9, 9], [float(drawn.sigma[index])] * 2)
        if drawn.solarise[index]:
            image = functional.solarize(image, config.solarise_threshold)
        expected.append(image)
    torch.testing.assert_close(augment.apply(_images(), drawn, config), torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_an_image_does_not_depend_on_its_neighbours(channels: int) -> None:
    config = augment.intended()[1]
    drawn = augment.draw(config, np.random.default_rng(3).random((SAMPLES, augment.DRAWS)))
    together = augment.apply(_images(channels), drawn, config)
    alone = [augment.apply(_images(channels)[i : i + 1], drawn.rows(slice(i, i + 1)), config) for i in range(SAMPLES)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)
    assert together.min() >= 0
    assert together.max() <= 1


def test_colour_is_skipped_without_three_channels_and_only_there() -> None:
    only_colour = augment.Config(jitter=1.0, brightness=0.0, contrast=0.0, grayscale=1.0, blur=0.0)
    drawn = augment.draw(only_colour, np.full((SAMPLES, augment.DRAWS), 0.25))
    assert torch.equal(augment.apply(_images(4), drawn, only_colour), _images(4))
    assert not torch.equal(augment.apply(_images(3), drawn, only_colour), _images(3))


def test_probability_zero_changes_nothing_and_one_everything() -> None:
    uniforms = np.random.default_rng(0).random((SAMPLES, augment.DRAWS))
    never = augment.Config(jitter=0.0, grayscale=0.0, blur=0.0, blur_sigma=(1.0, 2.0), solarise=0.0)
    assert torch.equal(augment.apply(_images(), augment.draw(never, uniforms), never), _images())
    for name in ("jitter", "grayscale", "blur", "solarise"):
        always = replace(never, **{name: 1.0})
        changed = augment.apply(_images(), augment.draw(always, uniforms), always) != _images()
        assert changed.flatten(1).any(dim=1).all(), name


def test_draws_follow_the_probabilities_and_ranges() -> None:
    config = augment.intended()[1]
    drawn = augment.draw(config, np.random.default_rng(0).random((20_000, augment.DRAWS)))
    rates = [flags.mean() for flags in (drawn.jitter, drawn.grayscale, drawn.blur, drawn.solarise)]
    assert rates == pytest.approx([0.8, 0.2, 0.1, 0.2], abs=0.012)  # 4 standard errors of 20,000 coins
    assert drawn.strength.min(axis=0) == pytest.approx([0.6, 0.6, 0.8, -0.1], abs=1e-3)
    assert drawn.strength.max(axis=0) == pytest.approx([1.4, 1.4, 1.2, 0.1], abs=1e-3)
    assert drawn.sigma.min() == pytest.approx(0.1, abs=1e-3)
    assert drawn.sigma.max() == pytest.approx(2.0, abs=1e-3)
    orders, counts = np.unique(drawn.order, axis=0, return_counts=True)
    assert len(orders) == 24
    assert counts.min() > 700  # of 833 expected


def test_published_blur_is_the_intended_one_inverted() -> None:
    assert [config.blur for config in augment.intended()] == [1.0, 0.1, 0.5]
    assert [config.blur for config in augment.published()] == [0.0, 0.9, 0.5]
    assert [config.solarise for config in augment.published()] == [0.0, 0.2, 0.0]


@pytest.mark.parametrize("wrong", [{"jitter": 1.5}, {"hue": 0.6}, {"blur_taps": 8}, {"blur_sigma": (0.0, 1.0)}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        augment.Config(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_fused_chain_is_the_exact_one_where_nothing_is_clamped_or_turned(channels: int) -> None:
    """In any order, with grayscale, and around the mean of the image as it is at that point of the chain."""
    exact = augment.Config(jitter=0.7, hue=0.0, grayscale=0.3, solarise=0.3)
    quiet = 0.4 + 0.1 * _images(channels).repeat(8, 1, 1, 1)
    uniforms = np.random.default_rng(4).random((len(quiet), augment.DRAWS))
    results = []
    for config in (exact, replace(exact, chain="fused")):
        drawn = augment.draw(config, uniforms, channels=channels)
        results.append(augment.apply(quiet.clone(), drawn, config))
    torch.testing.assert_close(results[1], results[0], atol=2e-6, rtol=0)


def test_the_fused_hue_turns_as_far_as_the_exact_one() -> None:
    """By thirds of the circle both permute the channels; gray stays gray at any angle."""
    strength = np.array([[1, 1, 1, shift] for shift in (1 / 3, -1 / 3, 0.1)])
    maps = augment.compose(
        order=np.tile(np.arange(4), (3, 1)), strength=strength, grayscale=np.zeros(3, dtype=bool), channels=3
    )
    images = _images()[3:]
    turned = augment.mapped(images, maps)
    exact = augment.hue(images, torch.tensor(strength[:, 3]).float())
    torch.testing.assert_close(turned[:2], exact[:2], atol=2e-6, rtol=0)
    gray = images.mean(dim=1, keepdim=True).repeat(1, 3, 1, 1)
    torch.testing.assert_close(augment.mapped(gray, maps), gray, atol=2e-6, rtol=0)


def test_the_fused_chain_stays_within_black_and_white() -> None:
    config = augment.Config(chain="fused", jitter=1.0, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5, blur=0.0)
    drawn = augment.draw(config, np.random.default_rng(0).random((SAMPLES, augment.DRAWS)))
    out = augment.apply(_images(), drawn, config)
    assert out.min() == 0
    assert out.max() == 1


@pytest.mark.parametrize("chain", ["exact", "fused"])
def test_like_images_become_neighbours(chain: str) -> None:
    config = augment.Config(chain=chain)  # type: ignore[arg-type]
    drawn = augment.draw(config, np.random.default_rng(0).random((500, augment.DRAWS)))
    rows = augment.alike(drawn)
    assert sorted(rows) == list(range(500))
    near = drawn.rows(rows)
    orders = [str(order) if jitter and chain == "exact" else "" for jitter, order in zip(near.jitter, near.order)]
    keys = list(zip(orders, near.blur))
    changes = sum(now != then for now, then in zip(keys[1:], keys[:-1]))
    assert changes + 1 == len(set(keys))
