import math
from xml.etree import ElementTree

import pytest

from dinokit.visuals.chart import PERCENT, Baseline, Series, line_chart, number, running_mean, thinned, ticks


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def places(svg: str, kind: str = "polyline") -> list[tuple[float, float]]:
    line = next(parsed(svg).iter(kind))
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.attrib["points"].split())]


def test_larger_values_are_higher_and_later_steps_further_right() -> None:
    (x0, y0), (x1, y1) = places(line_chart([Series("loss", [0, 10], [1.0, 2.0])], title="Loss"))
    assert x0 < x1
    assert y0 > y1  # down is positive


def test_curves_along_something_else_begin_where_they_do_and_are_read_at_a_place() -> None:
    series = [Series("found", [0.9, 0.95, 1.0], [0.8, 0.6, 0.1])]
    svg = line_chart(series, title="Threshold", along="cosine", at=0.951)
    (first, _), *_, (last, _) = places(svg)
    whole = places(line_chart([Series("found", [0, 1], [0.8, 0.1])], title="Threshold"))
    assert [first, last] == pytest.approx([whole[0][0], whole[1][0]])  # as wide as the plot
    assert "found <b>0.6</b>" in svg
    assert "Threshold by cosine. Values at" in svg
    mark = next(line for line in parsed(svg).iter("line") if line.attrib["x1"] == line.attrib["x2"])
    assert first < float(mark.attrib["x1"]) < last
    assert ">step<" not in svg


def test_a_logarithmic_axis_spaces_powers_evenly() -> None:
    points = places(line_chart([Series("norm", [0, 1, 2], [0.01, 1.0, 100.0])], title="Norm", log=True))
    assert points[0][1] - points[1][1] == pytest.approx(points[1][1] - points[2][1], abs=0.2)


def test_points_and_baselines_tell_their_values() -> None:
    svg = line_chart(
        [Series("trained", [0, 50], [60.0, 84.64], marks=True)],
        title="k-NN",
        baselines=[Baseline("raw", 81.1)],
        unit=PERCENT,
    )
    titles = [element.text for element in parsed(svg).iter("title")]
    assert titles == ["raw: 81.1 %", "step 0: trained 60.0 %", "step 50: trained 84.6 %"]
    assert "raw: 81.1 %" in parsed(svg).find("svg").attrib["aria-label"]  # type: ignore[union-attr]


@pytest.mark.parametrize("y", [[], [math.nan, math.inf]])
def test_nothing_to_draw_is_said(y: list[float]) -> None:
    assert "Nothing was logged" in line_chart([Series("loss", list(range(len(y))), y)], title="Loss")


@pytest.mark.parametrize("y", [[3.0], [0.0, 0.0], [-2.0, -2.0, -2.0], [1e-9, 1e9], [5, math.nan, 6]])
def test_odd_values_still_make_a_chart(y: list[float]) -> None:
    for log in (False, True):
        svg = line_chart([Series("x", list(range(len(y))), y, smooth=True)], title="t", log=log)
        assert "nan" not in svg
        parsed(svg)


def test_names_are_escaped() -> None:
    svg = line_chart([Series("<b>&", [0, 1], [0, 1])], title='<script>"', baselines=[Baseline("</svg>", 1)])
    assert "<script>" not in svg
    assert "<b>&" not in svg
    parsed(svg)


def test_a_long_curve_is_thinned_and_keeps_its_mean() -> None:
    x, y = thinned(list(range(1000)), [float(i % 2) for i in range(1000)], count=100)
    assert len(x) == 100
    assert x[-1] == 999
    assert sum(y) / len(y) == pytest.approx(0.5)


def test_the_running_mean_keeps_straight_lines_straight() -> None:
    line = [float(i) for i in range(20)]
    assert running_mean(line, window=7) == pytest.approx(line)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.3, -0.2), (0, 12345.0), (2e-6, 9e-6)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low <= value <= high for value in found)


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "0"), (1234567, "1 234 567"), (0.00012, "0.00012"), (2.5, "2.50"), (0.9961, "0.9961")]
)
def test_numbers_are_written_for_people(value: float, expected: str) -> None:
    assert number(value).replace("\u202f", " ") == expected
