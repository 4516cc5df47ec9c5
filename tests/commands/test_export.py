"""`dinokit export`: a file, what was compared beside it, and an exit code that can be trusted."""

import json
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import onnx
import pytest
from onnx import numpy_helper
from safetensors.torch import save_file

from dinokit.checkpoints.store import header
from dinokit.cli import run
from tests.conftest import MakeVit
from tests.vits import ARCHITECTURE


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Without checks of shapes, in which sizes that are recorded are no plain numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_a_file_is_right_at_every_size_until_its_weights_are_altered(
    tmp_path: Path, model: Path, make_vit: MakeVit, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.onnx"
    assert run(["export", str(model), "--to", "onnx", "--out", str(out), "--dynamic"]) == 0
    beside = tmp_path / "model.onnx.json"
    kept = json.loads(beside.read_text())
    assert kept["holds"] is True
    assert len(kept["rows"]) == 16  # two outputs, four sizes, two batches
    assert kept["about"]["mean"] == [0.5, 0.5, 0.5]
    assert kept["versions"]["onnxruntime"]
    assert "1.00000" in capsys.readouterr().out
    assert run(["export", "check", str(out), str(model)]) == 0
    backbone, other = make_vit(seed=1), tmp_path / "other.safetensors"
    save_file(backbone.state_dict(), other, header(ARCHITECTURE, backbone.pixels, step=0))
    assert run(["export", "check", str(out), str(other)]) == 2
    assert "was made of other weights" in capsys.readouterr().err
    altered = onnx.load(out)
    weights = max((each for each in altered.graph.initializer), key=lambda each: len(each.raw_data))
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 1.05, weights.name))
    onnx.save(altered, out)
    capsys.readouterr()
    assert run(["export", "check", str(out), str(model)]) == 1
    assert "beyond the bound" in capsys.readouterr().err
    assert json.loads(beside.read_text())["holds"] is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "onnx", "--out", "a.pt2"], "onnx writes files .onnx, got a.pt2"),
        (["--to", "onnx", "--out", "a.onnx", "--outputs", "cls,patch"], "did you mean 'patches'"),
        (["--to", "tensorflow", "--out", "a.onnx"], "onnx"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], said: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(["export", str(model), *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("a.*"))
