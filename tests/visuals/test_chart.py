import math
from xml.etree import ElementTree

import pytest

from dinokit.visuals.chart import Baseline, Course, Mark, Panel, Series, Span, line_chart, panels
from dinokit.visuals.plot import LEFT, PERCENT, RIGHT, WIDTH


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


def across(step: float, *, last: float) -> float:
    """Where a step lies to the right."""
    return LEFT + step / last * (WIDTH - LEFT - RIGHT)


COURSE = Course((Span("pretrain", 0, 60), Span("anchor", 60, 80)), (Mark("anchor", 24),))


def test_stages_and_marks_lie_at_their_steps() -> None:
    svg = parsed(line_chart([Series("loss", [0, 10, 70], [1.0, 2.0, 0.5])], title="Loss", course=COURSE))
    rects = [(float(r.attrib["x"]), float(r.attrib["width"])) for r in svg.iter("rect")]
    assert rects[0] == pytest.approx((across(0, last=80), across(60, last=80) - LEFT), abs=0.1)
    assert rects[1] == pytest.approx((across(60, last=80), across(80, last=80) - across(60, last=80)), abs=0.1)
    told = [title.text for rect in svg.iter("rect") for title in rect.iter("title")]
    assert told == ["stage pretrain: steps 0 to 60", "stage anchor: steps 60 to 80"]
    upright = {line.attrib["x1"] for line in svg.iter("line") if line.attrib["x1"] == line.attrib["x2"]}
    assert [float(x) for x in upright] == pytest.approx([across(24, last=80)], abs=0.1)
    words = [text.text for text in svg.iter("text") if text.attrib.get("class", "").startswith("name")]
    assert words == ["pretrain", "anchor", "anchor"]


def test_panels_share_the_range_and_stand_one_below_another() -> None:
    upper, lower = Series("k-NN", [0, 50], [1, 2], marks=True), Series("locality", [0, 100], [0.1, 0.3])
    svg = parsed(panels([Panel([upper], title="above"), Panel([lower], title="below")], title="Both"))
    first, second = (line.attrib["points"].split() for line in svg.iter("polyline"))
    assert float(first[-1].split(",")[0]) == pytest.approx(across(50, last=100), abs=0.1)
    assert float(second[-1].split(",")[0]) == pytest.approx(across(100, last=100), abs=0.1)
    assert max(float(p.split(",")[1]) for p in first) < min(float(p.split(",")[1]) for p in second)
    assert line_chart([upper], title="Both").count("<svg") == 1


def test_an_interval_is_drawn_around_its_point_and_told() -> None:
    svg = line_chart([Series("k-NN", [5], [50.0], marks=True, low=[45.0], high=[55.0])], title="k-NN", unit=PERCENT)
    whisker = next(line for line in parsed(svg).iter("line") if line.attrib.get("class") == "whisker")
    mark = next(c for c in parsed(svg).iter("circle") if c.attrib["class"] == "mark")
    ends = sorted(float(whisker.attrib[y]) for y in ("y1", "y2"))
    assert ends[0] < float(mark.attrib["cy"]) < ends[1]
    assert "(95 %: 45.0 % to 55.0 %)" in svg


@pytest.mark.parametrize("marks", [False, True])
def test_a_long_curve_is_drawn_short(marks: bool) -> None:
    svg = line_chart([Series("x", range(100_000), [float(i % 7) for i in range(100_000)], marks=marks)], title="t")
    assert len(svg) < 60_000
    xs = [float(pair.split(",")[0]) for pair in next(parsed(svg).iter("polyline")).attrib["points"].split()]
    assert xs[-1] == pytest.approx(WIDTH - RIGHT)  # the last value is there
