import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.evaluation import base
from dinokit.suites import cells, table
from dinokit.suites.columns import BASELINES, columns
from dinokit.suites.found import Found, find
from dinokit.suites.table import Line
from tests.conftest import MakeFolder
from tests.suites.conftest import SaveModel

SMALL = (
    Line("knn", "classes", settings={"k": (1, 3)}),
    Line("logreg", "classes", settings={"c": (0.1, 1.0)}),
    Line("retrieval", "instances"),
    Line("segmentation", "masks", settings={"protocol": "knn"}),
    Line("tracking", "videos"),
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.SUITES, "quick", SMALL)


def run(root: Path, out: Path, *models: str, baselines: bool = False) -> dict[str, Any]:
    every = columns(models, baselines=baselines, tokens=None, device=torch.device("cpu"))
    return cells.run("quick", find([str(root)])[0], every, out, tokens=None)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Note task and data of every evaluation that is computed."""
    seen: list[tuple[str, str]] = []
    for name in ("knn", "logreg", "retrieval", "segmentation"):
        module = base.find(name)

        def noting(backbone: Any, config: Any, out: Any, *, name: str = name, run: Any = module.run) -> Any:
            seen.append((name, backbone.name))
            return run(backbone, config, out)

        monkeypatch.setattr(module, "run", noting)
    return seen


def test_every_model_is_measured_on_all_that_is_there_and_what_is_missing_is_said(
    root: Path, tmp_path: Path, save_model: SaveModel
) -> None:
    out = tmp_path / "out"
    results = run(root, out, save_model("one", 0), save_model("two", 1), baselines=True)
    assert json.loads((out / "results.json").read_text()) == results
    names = {about["shown"] for about in results["models"].values()}
    assert names == {"one.safetensors", "two.safetensors", *BASELINES.values()}
    assert list(results["models"])[2:] == list(BASELINES)
    done = [(cell["task"], cell["set"]) for cell in results["cells"] if "numbers" in cell]
    wanted = [("knn", "colours"), ("logreg", "colours"), ("retrieval", "twins"), ("segmentation", "squares")]
    assert sorted(done) == sorted(wanted * 5)
    assert results["missing"] == ["videos (tracking): JPEGImages/ and Annotations/: DAVIS, YouTube-VOS, MOSE"]
    knn = next(cell for cell in results["cells"] if cell["task"] == "knn")
    assert knn["headline"] == "best"
    assert knn["chosen"].keys() == {"best_k"}
    assert knn["intervals"]["best"][0] <= knn["numbers"]["best"] <= knn["intervals"]["best"][1]
    assert (out / "cells" / "raw-pixels" / "knn-colours.json").is_file()
    assert results["models"]["raw-pixels"]["side"] == 16  # as images are seen, also after patches were


def test_a_further_model_costs_its_own_column(
    root: Path, tmp_path: Path, save_model: SaveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = save_model("a b", 0), save_model("a_b", 1)
    first = run(root, tmp_path / "out", one)
    seen = counted(monkeypatch)
    assert run(root, tmp_path / "out", one) == first
    assert seen == []
    both = run(root, tmp_path / "out", one, two)
    assert {name for _, name in seen} == {two}
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 2  # a space is no underscore
    assert [cell for cell in both["cells"] if cell["model"] == one] == first["cells"]
    alone = run(root, tmp_path / "out", two)
    assert alone["models"].keys() == {one, two}  # what is there stays


def test_other_weights_or_data_are_measured_again(
    root: Path, tmp_path: Path, save_model: SaveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = save_model("one", 0)
    run(root, tmp_path / "out", one)
    seen = counted(monkeypatch)
    save_model("one", 5)
    run(root, tmp_path / "out", one)
    assert len(seen) == 4
    seen.clear()
    (root / "twins" / "u" / "0.png").unlink()
    again = run(root, tmp_path / "out", one)
    assert [task for task, _ in seen] == ["retrieval"]
    assert [cell["task"] for cell in again["cells"]] == ["knn", "logreg", "retrieval", "segmentation"]


@pytest.mark.parametrize("cell", [1, 2, 4])
def test_a_kill_costs_one_cell(
    root: Path, tmp_path: Path, save_model: SaveModel, monkeypatch: pytest.MonkeyPatch, cell: int
) -> None:
    one = save_model("one", 0)
    whole = run(root, tmp_path / "whole", one)
    with monkeypatch.context() as patch:
        seen = counted(patch)
        settle = cells._settle

        def killed(*arguments: Any, **options: Any) -> None:
            if len(seen) == cell:
                raise KeyboardInterrupt
            settle(*arguments, **options)

        patch.setattr(cells, "_settle", killed)
        if cell < 4:
            with pytest.raises(KeyboardInterrupt):
                run(root, tmp_path / "out", one)
    seen = counted(monkeypatch)
    again = run(root, tmp_path / "out", one)
    assert len(seen) == 4 - cell if cell < 4 else 4
    for each in (*whole["cells"], *again["cells"]):
        del each["seconds"]
    assert again == whole


def test_a_bad_set_and_a_bad_model_are_a_line_and_are_tried_again(
    root: Path, tmp_path: Path, save_model: SaveModel
) -> None:
    one, out = save_model("one", 0), tmp_path / "out"
    broken = root / "squares" / "val" / "masks" / "0.png"
    kept = broken.read_bytes()
    broken.write_bytes(b"no mask")
    results = run(root, out, one, str(tmp_path / "nowhere"))
    errors = {(cell["task"], cell["model"]): cell["error"] for cell in results["cells"] if "error" in cell}
    assert "0.png" in errors["segmentation", one]
    assert "no model at" in errors["knn", str(tmp_path / "nowhere")]
    assert sum("numbers" in cell for cell in results["cells"]) == 3
    broken.write_bytes(kept)
    assert sum("numbers" in cell for cell in run(root, out, one)["cells"]) == 4


def test_nothing_to_measure_and_another_suite_are_mistakes(
    root: Path, tmp_path: Path, save_model: SaveModel, capsys: pytest.CaptureFixture[str]
) -> None:
    one, out = save_model("one", 0), tmp_path / "out"
    with pytest.raises(UserError, match="nothing of the suite 'quick' is in the data, which holds nothing"):
        run(root / "unlabelled", out, one)
    assert "missing: videos (tracking): JPEGImages/" in capsys.readouterr().err
    with pytest.raises(UserError, match="no model was given"):
        run(root, out)
    assert not out.exists()
    with pytest.raises(UserError, match="nothing could be measured: no model at"):
        run(root, out, "nowhere")
    assert capsys.readouterr().err.count("no model at nowhere") == 1  # not once per cell
    masks = columns([one], baselines=False, tokens=None, device=torch.device("cpu"))
    cells.run("retrieval", find([str(root)])[0], masks, out, tokens=None)  # what holds no number binds to nothing
    with pytest.raises(UserError, match="made with other suite"):
        run(root, out, one)


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"cells": [1]}', "whole", "cut"])
def test_damaged_results_are_refused_and_kept(root: Path, tmp_path: Path, save_model: SaveModel, damage: str) -> None:
    one, path = save_model("one", 0), tmp_path / "out" / "results.json"
    results = run(root, tmp_path / "out", one)
    whole = path.read_text()
    path.write_text(
        {"whole": json.dumps(results | {"models": {}}), "cut": whole[: len(whole) // 2]}.get(damage, damage)
    )
    kept = path.read_text()
    with pytest.raises(UserError, match="results.json is .*; move it away, or give another folder"):
        run(root, tmp_path / "out", one)
    assert path.read_text() == kept


def test_a_model_that_cannot_be_opened_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr("dinokit.suites.columns.load", lambda name: tried.append(name) or 1 / 0)
    (column,) = columns(["x"], baselines=False, tokens=None, device=torch.device("cpu"))
    for dense in (False, True, False):
        with pytest.raises(ZeroDivisionError):
            column.backbone(dense=dense)
    assert tried == ["x"]


def test_every_line_of_every_suite_can_be_set() -> None:
    for lines in table.SUITES.values():
        for line in lines:
            tests = tuple(Found(name, "robustness", f"{name}:DATA") for name in line.tests)
            config = cells.Job(line, Found("x", line.kind, "DATA"), tests, "").config
            assert config.data == "DATA"
            assert len(getattr(config, "tests", ())) == len(line.tests)
            assert line.kind in table.WANTS


def test_sets_that_a_head_is_measured_on_have_their_own_cells(
    root: Path, tmp_path: Path, save_model: SaveModel, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(*(f"{kind}/{index}.png" for kind in "abc" for index in range(3)), name="harder")
    settings = {"protocol": "quick", "iterations": 5, "lr": (1.0,), "mean_patch": (False,)}
    line = Line("linear", "classes", ("colours",), settings, tests=("harder", "hardest"))
    monkeypatch.setitem(table.SUITES, "quick", (line,))
    found = [*find([str(root)])[0], Found("harder", "robustness", str(tmp_path / "harder"))]
    every = columns([save_model("one", 0)], baselines=False, tokens=None, device=torch.device("cpu"))
    results = cells.run("quick", found, every, tmp_path / "out", tokens=None)
    by_set = {cell["set"]: cell for cell in results["cells"]}
    assert by_set.keys() == {"colours", "harder"}
    assert by_set["harder"]["headline"] == "top1"
    assert by_set["harder"]["intervals"].keys() >= {"top1"}
    assert not any("harder" in name for name in by_set["colours"]["numbers"])
    assert [line.partition(" ")[0] for line in results["missing"]] == ["hardest"]
    assert cells.run("quick", found, every, tmp_path / "out", tokens=None) == results
