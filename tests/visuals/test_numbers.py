import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dinokit.core.files import read_jsonl
from dinokit.visuals import numbers as room
from dinokit.visuals.numbers import numbers
from dinokit.visuals.record import read_record
from dinokit.visuals.report import write_report

MakeRun = Callable[..., Path]

LOG = tuple(
    {"step": step, "loss": 1 / (step + 3), "health/knn": 10.5, "verdict": "healthy"}
    | ({"lr": step * 1e-7} if step % 2 else {})
    for step in range(1, 40)
)
MEASURED = (
    {"step": 3, "evaluation": "knn", "model": "teacher", "top1@20": 61.7, "queries": 18},
    {"step": 9, "evaluation": "knn", "model": "teacher", "top1@20": 1 / 3, "queries": 18},
    {"step": 9, "evaluation": "depth", "model": "raw-pixels", "RMSE": 0.5, "unit": "m", "data": "/d"},
    {"step": 9, "evaluation": "depth", "model": "teacher", "failed": "no memory", "data": "/d"},
)


def test_they_are_those_of_the_log(make_run: MakeRun) -> None:
    run = make_run("", lines=(*LOG, *MEASURED), steps=())
    lines, found = read_jsonl(run / "metrics.jsonl"), numbers(read_record(run))
    assert [curve["name"] for curve in found["curves"]] == ["loss", "health/knn", "lr"]
    for curve in found["curves"]:
        assert list(zip(curve["step"], curve["value"], strict=True)) == [
            (line["step"], line[curve["name"]]) for line in lines if curve["name"] in line
        ]
        assert curve["every"] == 1
    assert [(one["evaluation"], one["model"], one["data"], one["unit"]) for one in found["evaluations"]] == [
        ("knn", "teacher", "", "%"), ("depth", "raw-pixels", "/d", "m"),
    ]  # fmt: skip
    assert found["evaluations"][0]["step"] == [3, 9]
    assert found["evaluations"][0]["value"] == [61.7, 1 / 3]
    assert found["left_out"] == 0


def test_the_page_holds_them_and_no_text_ends_them(make_run: MakeRun) -> None:
    evil = '</script><script>alert("1")</script><!--'
    run = make_run("", lines=({"step": 5, evil: 2.0}, *LOG))
    page = write_report(run).read_text(encoding="utf-8")
    _before, after = page.split('<script type="application/json" id="numbers">')
    assert evil not in page
    island = after.split("</script>")[0]
    assert "<" not in island
    assert json.loads(island) == json.loads(json.dumps(numbers(read_record(run))))
    assert page.count("<script") == 2


def test_nan_is_left_out(make_run: MakeRun) -> None:
    run = make_run("", steps=())
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "loss": NaN}\n{"step": 2, "loss": Infinity}\n{"step": 3, "loss": 4}\n'
    )
    (curve,) = numbers(read_record(run))["curves"]
    assert (curve["step"], curve["value"]) == ([3], [4])
    write_report(run)


def test_long_curves_keep_every_so_many_points_short_ones_all(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "POINTS", 50)
    found = {curve["name"]: curve for curve in numbers(read_record(make_run("", lines=LOG, steps=())))["curves"]}
    assert sum(len(curve["step"]) for curve in found.values()) <= 50
    assert found["loss"]["every"] > 1
    assert found["loss"]["step"][-1] == 39
    assert all(
        LOG[step - 1]["loss"] == value
        for step, value in zip(found["loss"]["step"], found["loss"]["value"], strict=True)
    )


def test_how_many_curves_do_not_fit_is_said(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CURVES", 2)
    found = numbers(read_record(make_run("", lines=(*LOG, *MEASURED), steps=())))
    assert len(found["curves"]) == 2
    assert found["left_out"] == 3
