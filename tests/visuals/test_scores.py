from typing import Any

from dinokit.visuals import scores


def cell(model: str, data: str, value: float, **changes: Any) -> dict[str, Any]:
    told = {"model": model, "task": "knn", "set": data, "headline": "best", "numbers": {"best": value}, "lower": False}
    return told | {"intervals": {}, "chosen": {}, "published": [], "seed": None, "seconds": 1.5} | changes


def results(*cells: dict[str, Any]) -> dict[str, Any]:
    about = {"patch": 14, "side": 224, "tokens": 256, "parameters": 22_000_000, "licence": None, "baseline": False}
    models = {name: {"shown": name.upper(), **about} for name in ("a", "b")}
    sets = {"photos": {"kinds": ["classes"], "source": "nowhere"}}
    return {"suite": "quick", "tokens": None, "missing": [], "sets": sets, "models": models, "cells": list(cells)}


def test_a_row_per_set_and_the_best_is_bold() -> None:
    found = results(
        cell("b", "photos", 60.0),
        cell("a", "photos", 70.04, intervals={"best": [68.0, 72.0]}),
        cell("b", "rooms", 0.25, headline="RMSE", numbers={"RMSE": 0.25}, lower=True, task="depth"),
        cell("a", "rooms", 0.5, headline="RMSE", numbers={"RMSE": 0.5}, lower=True, task="depth"),
        {"model": "a", "task": "knn", "set": "rooms", "error": "broken"},
    )
    text = scores.markdown(found)
    assert "| photos | best | **70.0 (68.0\N{EN DASH}72.0)** | 60.0 |" in text
    assert "| rooms | RMSE | 0.500 | **0.250** |" in text
    assert "- knn on rooms, a: broken" in text
    assert scores.best_of({name: cell(name, "photos", 70.0) for name in "ab"}) == ["a", "b"]
    assert text.index("## knn") < text.index("## depth") < text.index("## Failed")


def test_published_numbers_stand_beside_their_own_measure_with_their_source() -> None:
    papers = [{"number": "best", "value": 79.0, "source": "a paper, table 4", "tokens": "256"}]
    papers += [{"number": "top5", "value": 93.0, "source": "another", "tokens": ""}]
    found = results(cell("a", "photos", 78.8, published=papers, numbers={"best": 78.8, "top5": 92.5}))
    assert scores.written(found["cells"][0]) == "78.8 / 79"
    assert scores.published(found)[1] == [
        ["A", "knn", "photos", "best", "78.8", "79", "a paper, table 4", "256"],
        ["A", "knn", "photos", "top5", "92.5", "93", "another", ""],
    ]


def test_percentages_have_one_decimal_and_errors_three() -> None:
    assert scores.figure(3.807, lower=False) == "3.8"
    assert scores.figure(0.5678, lower=True) == "0.568"
    assert scores.figure(45.31, lower=True) == "45.3"  # mCE


def test_what_was_chosen_is_listed() -> None:
    found = results(cell("a", "photos", 1.0, chosen={"best_k": 20.0, "lr": 1e-3}, seed=3))
    assert scores.chosen(found)[1] == [["A", "knn", "photos", "k 20, lr 0.001", 3, "1.5"]]


def test_the_same_failure_of_a_model_is_one_line() -> None:
    bad = [{"model": "a", "task": "knn", "set": name, "error": "broken"} for name in ("x", "y", "z")]
    other = {"model": "b", "task": "knn", "set": "x", "error": "broken"}
    assert scores.failures(results(*bad, other)) == ["knn on x and 2 more, a: broken", "knn on x, b: broken"]
