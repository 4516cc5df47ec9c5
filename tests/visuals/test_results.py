import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinokit.checkpoints.load import load
from dinokit.core.files import digest_of_model
from dinokit.visuals.results import FILES, results, results_of


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def saved(run: Path, *, data: str = "demo:fashion") -> None:
    """What `evaluate knn --save` leaves, and `--out`."""
    write(run / "knn" / "knn.json", {"top1@20": 84.25, "queries": 100, "intervals": {"top1@20": [80.0, 88.0]}, "k": {}})
    write(run / "knn" / "evaluate.json", {"task": "knn", "weights": "0", "settings": {"data": data}})
    rows = {str(run): {"top1@20": 84.25}, "random-init": {"top1@20": 60.0}, "raw-pixels": {"top1@20": 81.0}}
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
    rows = {str(tmp_path): {"top1@20": 71.0}, "random-init": {"top1@20": 50.0}}  # of other settings, on the same data
    write(tmp_path / "smaller.json", {"task": "knn", "config": {"data": "demo:fashion"}, "results": rows})
    found = {one.numbers["teacher"]["top1@20"]: dict(one.intervals) for one in results_of(tmp_path)}
    assert found == {84.25: {"top1@20": (80.0, 88.0)}, 71.0: {}}


def one(model: str, top1: float, **more: object) -> dict[str, object]:
    """What --out writes of a model."""
    return {"task": "knn", "config": {"data": "x"}, "results": {model: {"top1@20": top1}}, **more}


def test_the_run_its_checkpoints_and_their_weights_are_the_trained_model(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    own = (str(run), "runs/a", "../a", ".", f"{run}/checkpoints/5", f"{run}/checkpoints/5/model.safetensors")
    others = (str(tmp_path / "a"), "runs/b", "timm/a", f"{run}/checkpoints", "vits14.dinov2")
    for number, name in enumerate((*own, *others)):
        write(run / f"{number:02d}.json", one(name, float(number)))
    found = {each.numbers["teacher"]["top1@20"]: each.model for each in results_of(run)}
    assert [found[number] for number in range(len(found))] == [*("" for _ in own), *others]


def test_another_model_is_shown_by_its_own_name(tmp_path: Path) -> None:
    write(tmp_path / "own.json", one(str(tmp_path), 84.0))
    write(tmp_path / "other.json", one("timm/<b>", 91.0))
    html = results(tmp_path)
    own, other = html.split("timm/&lt;b&gt;</th>", 1)
    assert "84.0 %" in own
    assert "91.0 %" not in own
    assert "91.0 %" in other
    assert ">trained</th>" not in other


def test_a_digest_of_weights_finds_the_run_again_wherever_it_lies(
    make_run: Callable[..., Path], make_folder: Callable[..., Path]
) -> None:
    run = make_run(str(make_folder("a/0.png", "b/0.png")))
    own = digest_of_model(load(run / "checkpoints" / "10"))
    write(run / "moved.json", one("/elsewhere", 1.0, weights=own))
    write(run / "knn" / "knn.json", {"top1@20": 2.0})
    write(run / "knn" / "evaluate.json", {"weights": own, "settings": {"data": "x"}})
    write(run / "further" / "knn.json", {"top1@20": 3.0})
    write(run / "further" / "evaluate.json", {"weights": "of another", "settings": {"data": "x"}})
    found = {each.numbers["teacher"]["top1@20"]: each.model for each in results_of(run)}
    assert found == {1.0: "", 2.0: "", 3.0: "another model"}
    write(run / "further.json", one("timm/other", 3.0))
    assert {each.model for each in results_of(run)} == {"", "timm/other"}


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


def test_what_lies_beside_a_detection_is_not_looked_at(tmp_path: Path) -> None:
    for number in range(FILES):
        write(tmp_path / "a" / str(number) / "detections.json", [])
    for name in ("detections", "truth", "mistakes"):
        write(tmp_path / "detection" / f"{name}.json", {"AP": 1.0})
    numbers = {"AP": 40.0, "AP50": 60.0, "images": 5.0}
    write(tmp_path / "detection" / "detection.json", numbers | {"intervals": {"AP": [38.0, 42.0]}})
    assert [one.file for one in results_of(tmp_path)] == ["detection/detection.json"]
    assert "<td>40.0 %</td><td>38.0 % to 42.0 %</td>" in results(tmp_path)


def test_names_are_escaped_and_files_bounded(tmp_path: Path) -> None:
    for number in range(FILES + 20):
        saved(tmp_path / f"{number:03d}", data=f"<b>{number}")
    html = results(tmp_path)
    assert "<b>" not in html
    assert len(html) < 300_000
