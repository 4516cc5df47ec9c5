import json
from pathlib import Path

import pytest

from dinokit.cli import run
from tests.conftest import MakeFolder


@pytest.mark.slow  # it measures models on sets
def test_a_suite_from_words_to_a_page(
    model: Path, make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = (f"{split}/{kind}/{index}.png" for split in ("train", "val") for kind in "abc" for index in range(4))
    make_folder(*files, name="data/colours")
    other = tmp_path / "other.safetensors"
    other.write_bytes(model.read_bytes())
    out = tmp_path / "out"
    words = ["evaluate", "suite", "--suite", "classification", "--models", str(model), str(other), "--baselines"]
    words += ["--data", str(tmp_path / "data"), "--out", str(out), "--tokens", "4", "--device", "cpu"]
    assert run(words) == 0
    results = json.loads((out / "results.json").read_text())
    shown = [about["shown"] for about in results["models"].values()]
    assert shown == ["model.safetensors", "other.safetensors", "untrained", "raw pixels", "colour histograms"]
    first = results["models"][str(model)]
    assert (first["patch"], first["side"], first["tokens"]) == (4, 8, 4)
    assert "colours" in capsys.readouterr().out
    assert "## knn" in (out / "results.md").read_text()
    assert (out / "index.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "quik"], "unknown suite 'quik'; did you mean 'quick'"),
        (["--tokens", "200"], "expected a square number of tokens, such as 256 or 1024, got 200; try 196"),
        (["--tokens", "many"], "--tokens: expected a whole number"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--models", str(model), "--data", str(photos), "--out", str(tmp_path / "out")]
    assert run(["evaluate", "suite", *given, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
