import json
from pathlib import Path
from typing import Any

from dinokit.visuals.results import FILES, results, results_of


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def saved(run: Path, *, data: str = "demo:fashion") -> None:
    """What `evaluate knn --save` leaves, and `--out`."""
    write(run / "knn" / "knn.json", {"top1@20": 84.25, "queries": 100, "intervals": {"top1@20": [80.0, 88.0]}, "k": {}})
    write(run / "knn" / "evaluate.json", {"task": "knn", "weights": "0", "settings": {"data": data}})
    rows = {"/run": {"top1@20": 84.25}, "random-init": {"top1@20": 60.0}, "raw-pixels": {"top1@20": 81.0}}
    write(run / "any name.json", {"task": "knn", "config": {"data": data}, "results": rows})


def test_what_two_files_say_of_one_is_one_line(tmp_path: Path) -> None:
    saved(tmp_path)
    (found,) = results_of(tmp_path)
    assert {model: row["top1@20"] for model, row in found.numbers.items()} == {
        "teacher": 84.25, "random-init": 60.0, "raw-pixels": 81.0,
    }  # fmt: skip
    assert found.intervals == {"top1@20": (80.0, 88.0)}
    html = results(tmp_path)
    assert '<th scope="row">knn</th><td>demo:fashion</td><td>top1@20</td><td>84.2 %</td><td>80.0 % to 88' in html


def test_an_interval_stands_beside_the_numbers_it_is_of_alone(tmp_path: Path) -> None:
    saved(tmp_path)
    rows = {"/run": {"top1@20": 71.0}, "random-init": {"top1@20": 50.0}}  # of other settings, on the same data
    write(tmp_path / "smaller.json", {"task": "knn", "config": {"data": "demo:fashion"}, "results": rows})
    found = {one.numbers["teacher"]["top1@20"]: dict(one.intervals) for one in results_of(tmp_path)}
    assert found == {84.25: {"top1@20": (80.0, 88.0)}, 71.0: {}}


def test_suites_are_told_as_on_their_own_page(tmp_path: Path) -> None:
    cell = {"model": "m", "task": "knn", "set": "pets", "headline": "top1@20", "numbers": {"top1@20": 71.0},
            "intervals": {"top1@20": [70.0, 72.0]}, "published": [], "lower": False}  # fmt: skip
    about = {"suite": "quick", "models": {"m": {"shown": "mine"}}, "cells": [cell]}
    write(tmp_path / "suite" / "results.json", about)
    html = results(tmp_path)
    assert "71.0 (70.0\N{EN DASH}72.0)" in html
    assert "mine" in html


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    for place, content in enumerate(([], 3, {"a": 1}, {"task": "knn", "config": 1, "results": 2}, {"results": {}})):
        write(tmp_path / f"{place}.json", content)
        write(tmp_path / str(place) / "results.json", content)
        write(tmp_path / str(place) / "knn.json", content)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "depth.json").write_text('{"RMSE": NaN, "intervals": {"RMSE": 3}}')
    write(tmp_path / "checkpoints" / "0" / "knn.json", {"top1@20": 1.0})
    found = results_of(tmp_path)
    assert [(one.file, dict(one.numbers["teacher"])) for one in found] == [("2/knn.json", {"a": 1})]
    assert results(tmp_path / "nothing") == ""


def test_names_are_escaped_and_files_bounded(tmp_path: Path) -> None:
    for number in range(FILES + 20):
        saved(tmp_path / f"{number:03d}", data=f"<b>{number}")
    html = results(tmp_path)
    assert "<b>" not in html
    assert len(html) < 300_000
