import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from dinokit import evaluation
from dinokit.visuals.course import anchor_steps, columns, course_of, quality, stages
from dinokit.visuals.plot import LEFT, RIGHT, WIDTH
from dinokit.visuals.record import DENSE, read_record

MakeRun = Callable[..., Path]
GRAM: dict[str, Any] = {"steps": 40, "changes": {"anchor": {"source": "auto"}}}


@pytest.fixture
def staged(make_run: MakeRun) -> MakeRun:
    """A run of 100 steps with further stages, whose anchor was chosen."""

    def make(
        later: Any, *, chosen: str | None = None, begins: int = 100, steps: tuple[int, ...] = (), **settings: Any
    ) -> Path:
        looks = tuple({"step": s, "health/locality": s / 200, "health/knn": 50.0 + s / 10} for s in range(0, 141, 20))
        run = make_run("", lines=looks, steps=steps)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["experiment"] |= {"stages": later} | settings
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        if chosen is not None:
            about = {"stage_begins": begins, "chosen": chosen, "candidates": {"10": {}, "100": {}}}
            (run / "anchor.json").write_text(json.dumps(about))
        return run

    return make


def test_stages_follow_one_another(staged: MakeRun) -> None:
    record = read_record(staged({"anchor": GRAM, "high": {"steps": 10, "begin": "teacher"}}))
    assert [(one.name, one.first, one.last) for one in stages(record)] == [
        ("pretrain", 0, 100), ("anchor", 100, 140), ("high", 140, 150),
    ]  # fmt: skip


def test_a_run_of_one_stage_is_not_shaded(make_run: MakeRun) -> None:
    assert course_of(read_record(make_run("", steps=()))).spans == ()


@pytest.mark.parametrize(
    ("anchor", "expected"),
    [
        ({"source": "auto"}, [("anchor", 10)]),
        ({"source": "start"}, [("anchor", 100)]),
        ({"source": "60"}, [("anchor", 60)]),
        ({"source": "teacher"}, []),
        ({"source": "/models/other.safetensors"}, []),
        ({"source": "start", "first": 5, "every": 10, "most": 2},
         [("anchor", 100), ("anchor renewed", 110), ("anchor renewed", 120)]),
        ({"source": "start", "first": 15, "every": 10, "most": 9},
         [("anchor", 100), ("anchor renewed", 120), ("anchor renewed", 130), ("anchor renewed", 140)]),
    ],
)  # fmt: skip
def test_the_anchor_is_the_teacher_that_the_stage_took(
    staged: MakeRun, anchor: dict[str, Any], expected: list[tuple[str, int]]
) -> None:
    run = staged({"anchor": {"steps": 40, "changes": {"anchor": anchor}}}, chosen="/moved/run/checkpoints/10")
    assert anchor_steps(read_record(run)) == expected


def test_an_anchor_of_another_run_is_named_and_not_marked(staged: MakeRun) -> None:
    run = staged({}, chosen="/runs/base/checkpoints/10", begins=0, anchor={"source": "auto"}, start={"source": "x"})
    assert anchor_steps(read_record(run)) == []
    assert "/runs/base/checkpoints/10" in quality(read_record(run))


def test_a_stage_keeps_the_anchor_of_the_stage_before(staged: MakeRun) -> None:
    later = {"anchor": {"steps": 20, "changes": {"anchor": {"source": "start"}}}, "more": {"steps": 20}}
    assert anchor_steps(read_record(staged(later))) == [("anchor", 100), ("anchor", 120)]


def test_the_figure_has_the_stages_and_the_anchor_at_their_steps(staged: MakeRun) -> None:
    html = quality(read_record(staged({"anchor": GRAM}, chosen="checkpoints/20")))
    svg = ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])

    def across(step: float) -> float:
        return LEFT + step / 140 * (WIDTH - LEFT - RIGHT)

    rects = [(float(rect.attrib["x"]), float(rect.attrib["width"])) for rect in svg.iter("rect")]
    assert len(rects) == 4  # two stages behind two panels
    assert rects[1] == pytest.approx((across(100), across(140) - across(100)), abs=0.1)
    upright = {float(line.attrib["x1"]) for line in svg.iter("line") if line.attrib["x1"] == line.attrib["x2"]}
    assert list(upright) == pytest.approx([across(20)], abs=0.1)
    assert len(list(svg.iter("polyline"))) == 2
    assert "teacher of step 20" in html


def test_evaluations_come_before_the_probe(staged: MakeRun) -> None:
    run = staged({"anchor": GRAM})
    with (run / "metrics.jsonl").open("a") as file:
        for name, number in (("knn", "top1@20"), ("segmentation", "mIoU")):
            file.write(json.dumps({"step": 100, "evaluation": name, "model": "teacher", number: 50.0}) + "\n")
    html = quality(read_record(run))
    assert "k-NN accuracy (k = 20)" in html
    assert "segmentation mIoU" in html
    assert "locality of patches" in html
    assert "k-NN of the probe" not in html


def test_without_a_dense_sign_there_is_no_figure(make_run: MakeRun) -> None:
    assert (
        quality(read_record(make_run("", lines=({"step": 10, "health/knn": 5.0}, {"step": 20, "health/knn": 6.0}))))
        == ""
    )


def test_what_stands_in_the_file_may_be_anything(staged: MakeRun) -> None:
    for later in ({"anchor": None}, {"anchor": {"steps": "many"}}, {"anchor": {"steps": 5, "changes": 3}}, [1], "x"):
        run = staged(later, chosen="", anchor={"source": "auto", "first": None})
        quality(read_record(run))
        course_of(read_record(run))
        for path in sorted(run.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        run.rmdir()


def test_first_last_anchor_and_ends_of_stages_are_shown_side_by_side(staged: MakeRun) -> None:
    run = staged({"anchor": GRAM}, chosen="checkpoints/30")
    for step in (*range(0, 100, 10), 100, 140):
        (run / "checkpoints" / str(step)).mkdir(parents=True)
    shown = columns(read_record(run))
    assert len(shown) == 6
    assert {0, 30, 100, 140} < set(shown)
    assert shown == sorted(shown)


def test_dense_are_the_evaluations_that_look_at_patches() -> None:
    files = Path(evaluation.__path__[0]).glob("*.py")
    assert set(DENSE) == {file.stem for file in files if "\nPATCHES = True" in file.read_text()}
