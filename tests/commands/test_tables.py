"""A table is read rightly: with units, and with a word where a model is beaten."""

import pytest

from dinokit.commands.tables import outdone, print_rows, print_table
from dinokit.evaluation import retrieval


def test_a_model_that_loses_is_told_so() -> None:
    rows = {"model": {"top1@20": 79.0, "queries": 9.0}, "untrained": {"top1@20": 69.0}, "raw pixels": {"top1@20": 81.1}}
    assert outdone(rows, {"top1": "%"}).startswith("raw pixels does better than model in top1@20")
    assert outdone(rows | {"raw pixels": {"top1@20": 79.0}}, {"top1": "%"}) == ""
    assert outdone({"model": {"RMSE": 1.0}, "untrained": {"RMSE": 2.0}}, {"RMSE": "m"}) == ""  # less is better
    assert outdone({"model": {"top1@20": 79.0}}, {"top1": "%"}) == ""


def test_percentages_have_a_unit_and_counts_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("retrieval", {"model": {"mAP": 30.0, "R@1": 100.0, "queries": 2000.0}}, retrieval.UNITS)
    said = capsys.readouterr().out
    assert all(text in said for text in ("30.00 %", "100.00 %", "2,000"))
    assert "2,000." not in said


def test_a_pipe_gets_every_letter_and_names_that_look_like_markup(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"runs/[b]{number}[/i] :smile: {'x' * 40}" for number in range(6)]
    print_table("knn on data [v2]", {name: {"top1": 79.0} for name in names}, {"top1": "%"})
    print_rows("knn [/v2]", ["set", *names], [["[/b] :x:", *("100.0 (100.0-100.0)" for _ in names)]])
    said = capsys.readouterr().out
    assert all(said.count(name) == 2 for name in names)
    assert all(text in said for text in ("data [v2]", "knn [/v2]", "[/b] :x:"))
    assert said.count("100.0 (100.0-100.0)") == 6
