"""Depth errors against loops and hand cases; which pixels count."""

import math

import numpy
import pytest

from dinokit.metrics.depth import counted, errors, mean


def test_all_measures_are_those_of_a_loop() -> None:
    draw = numpy.random.default_rng(0)
    found, truth = draw.uniform(0.5, 9, 50), draw.uniform(0.5, 9, 50)
    pairs = list(zip(found.tolist(), truth.tolist(), strict=True))
    logs = [math.log(f) - math.log(t) for f, t in pairs]
    wanted = {
        "RMSE": math.sqrt(sum((f - t) ** 2 for f, t in pairs) / 50),
        "AbsRel": sum(abs(f - t) / t for f, t in pairs) / 50,
        "SqRel": sum((f - t) ** 2 / t for f, t in pairs) / 50,
        "RMSElog": math.sqrt(sum(each**2 for each in logs) / 50),
        "log10": sum(abs(math.log10(f / t)) for f, t in pairs) / 50,
        "SILog": 100 * math.sqrt(sum(each**2 for each in logs) / 50 - (sum(logs) / 50) ** 2),
        "MAE": sum(abs(f - t) for f, t in pairs) / 50,
        **{f"delta{k}": 2.0 * sum(max(f / t, t / f) < 1.25**k for f, t in pairs) for k in (1, 2, 3)},
    }
    assert errors(found, truth) == pytest.approx(wanted)


def test_a_wrong_scale_is_free_in_silog_only() -> None:
    truth = numpy.linspace(1, 9, 20)
    found = errors(1.2 * truth, truth)
    assert found["SILog"] == pytest.approx(0, abs=1e-9)
    assert found["AbsRel"] == pytest.approx(0.2)
    assert found["delta1"] == 100


def test_images_count_the_same_whatever_they_hold() -> None:
    small, large = errors(numpy.full(1, 2.0), numpy.ones(1)), errors(numpy.ones(99), numpy.ones(99))
    assert mean([small, large])["RMSE"] == pytest.approx(0.5)


def test_the_published_crops() -> None:
    indoor = counted(numpy.full((480, 640), 2.0), low=1e-3, high=10.0, crop="nyu")
    rows, columns = numpy.nonzero(indoor)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (45, 471, 41, 601)
    street = numpy.nonzero(counted(numpy.full((352, 1216), 2.0), low=1e-3, high=80.0, crop="garg"))[0]
    assert (street.min(), street.max() + 1) == (143, 349)  # 0.40810811 and 0.99189189 of 352


def test_depths_at_the_ends_of_the_range_and_missing_ones_do_not_count() -> None:
    truth = numpy.array([[0.0, 0.001, 5.0, 10.0, 11.0]])
    assert counted(truth, low=0.001, high=10.0).tolist() == [[False, False, True, False, False]]
