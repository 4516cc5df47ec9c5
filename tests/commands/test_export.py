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
from dinokit.dense.heads import About, save_head
from dinokit.dense.maps import Windows
from dinokit.dense.segmentation import Config, LinearHead
from tests.conftest import MakeFolder, MakeVit
from tests.vits import ARCHITECTURE


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Without checks of shapes, in which sizes that are recorded are no plain numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
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
        (
            ["--to", "tensorflow", "--out", "a.onnx"],
            "unknown --to 'tensorflow'; known are: onnx, openvino, torch-export",
        ),
        (["--to", "executorch", "--out", "a.pte"], "it was left out, for its programs run images of one size"),
        (["--to", "onnx", "--out", "a.onnx", "--precision", "bf16"], "not bf16, which openvino, torch-export would"),
        (["--to", "torch-export", "--out", "a.pt2", "--precision", "int8", "--calibrate", "x"], "which onnx, openvino"),
        (["--to", "onnx", "--out", "a.onnx", "--precision", "int8"], "--calibrate IMAGES belong together"),
        (["--to", "openvino", "--out", "a.xml", "--calibrate", "x"], "--calibrate IMAGES belong together"),
        (["--to", "onnx", "--out", "a.onnx", "--head", "nothing"], "holds no head"),
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


@pytest.mark.slow
def test_a_head_goes_with_its_network_and_no_other_is_compared(
    tmp_path: Path, model: Path, make_vit: MakeVit, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of int8 the images that are compared on are asked for, and the file says what they are shown by."""
    backbone, details = make_vit(), {"classes": ["a", "b"], "colours": [[0, 0, 0], [9, 9, 9]]}
    for seed in (0, 1):
        head = LinearHead(Config(width=16, outputs=2), seed=seed).eval()
        about = About.of(backbone, "segmentation", Windows(16, 8), short=16, details=details)
        save_head(tmp_path / f"head{seed}", head, about)
    out, given = tmp_path / "model.xml", ["--head", str(tmp_path / "head0")]
    assert run(["export", str(model), "--to", "openvino", "--out", str(out), *given]) == 0
    kept = json.loads((tmp_path / "model.xml.json").read_text())
    assert {row["output"] for row in kept["rows"]} == {"logits", "mask"}
    assert (kept["about"]["short"], kept["about"]["crop"], kept["about"]["stride"]) == (16, 16, 8)
    assert kept["about"]["details"]["classes"] == ["a", "b"]
    for words, said in (([], "give it as --head"), (["--head", str(tmp_path / "head1")], "is another head")):
        assert run(["export", "check", str(out), str(model), *words]) == 2
        assert said in capsys.readouterr().err
    assert run(["export", "check", str(out), str(model), *given]) == 0


@pytest.mark.slow
def test_int8_is_judged_by_images_and_says_so(
    tmp_path: Path, model: Path, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = make_folder(*(f"{number}.png" for number in range(8))), tmp_path / "model.onnx"
    words = ["export", str(model), "--to", "onnx", "--out", str(out), "--precision", "int8"]
    assert run([*words, "--calibrate", str(images)]) == 0
    assert json.loads((tmp_path / "model.onnx.json").read_text())["about"]["precision"] == "int8"
    assert run(["export", "check", str(out), str(model)]) == 2
    assert "--calibrate IMAGES" in capsys.readouterr().err
    assert run(["export", "check", str(out), str(model), "--calibrate", str(images)]) == 0
