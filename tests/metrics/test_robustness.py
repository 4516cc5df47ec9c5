import pytest

from dinokit.metrics.robustness import ALEXNET, OFFICIAL, corruption_errors, parsed


def errors(scale: float, *names: str) -> dict[tuple[str, int], float]:
    return {(name, s): scale * ALEXNET[name][s - 1] for name in names for s in range(1, 6)}


def test_alexnet_itself_is_1_and_half_its_errors_are_half() -> None:
    assert corruption_errors(errors(1.0, *OFFICIAL)).mce == pytest.approx(1.0)
    assert corruption_errors(errors(0.5, *OFFICIAL)).mce == pytest.approx(0.5)


def test_severities_are_summed_before_they_are_compared() -> None:
    # by hand: fog, errors 0.5 at every severity; AlexNet 0.67474 + 0.76050 + 0.84378 + 0.87260 + 0.94500 = 4.09662
    found = corruption_errors({("fog", s): 0.5 for s in range(1, 6)})
    assert found.mce == pytest.approx(2.5 / 4.09662)


def test_the_four_others_are_told_but_not_averaged() -> None:
    found = corruption_errors(errors(0.5, *OFFICIAL) | errors(2.0, *(name for name in ALEXNET if name not in OFFICIAL)))
    assert found.mce == pytest.approx(0.5)
    assert found.each["spatter"] == pytest.approx(2.0)
    assert len(found.each) == 19
    assert not found.missing
    assert corruption_errors(errors(1.0, "saturate")).mce is None


def test_what_is_missing_is_named_and_severities_are_compared_with_the_same() -> None:
    found = corruption_errors({("snow", 2): ALEXNET["snow"][1], ("fog", 1): 0.0})
    assert found.mce == pytest.approx(0.5)
    assert set(found.missing) == set(OFFICIAL)
    assert not set(corruption_errors(errors(1.0, *OFFICIAL[:-1])).missing) - {"jpeg_compression"}


def test_the_table_has_the_published_means() -> None:
    # the mean over severities, as those who report mCE alone write the table (AugMix, arXiv:1912.02781, its code)
    means = (0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360)
    means += (0.866816, 0.826572, 0.819324, 0.564592, 0.853204, 0.646056, 0.717840, 0.606500)
    assert [sum(ALEXNET[name]) / 5 for name in OFFICIAL] == pytest.approx(means, abs=1e-6)


@pytest.mark.parametrize(
    ("domain", "expected"),
    [("fog/3", ("fog", 3)), ("/snow/5/", ("snow", 5)), ("fog/6", None), ("fog", None), ("photo/1", None), ("", None)],
)
def test_a_domain_names_a_corruption_and_a_severity(domain: str, expected: tuple[str, int] | None) -> None:
    assert parsed(domain) == expected
