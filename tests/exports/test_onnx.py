"""ONNX files compute what our networks do, at sizes that they were not recorded at."""

from pathlib import Path

import onnx as format
import onnxruntime
import pytest
import torch

from dinokit.core.files import digest_of_model
from dinokit.core.messages import UserError
from dinokit.exports import onnx
from dinokit.exports.outputs import SHOWN, Outputs, about
from dinokit.exports.parity import compare, sizes
from dinokit.models.architecture import ARCHITECTURES, build
from tests.exports.conftest import Exported, network

FAMILIES = ("dinov3", "dinov2", "dinov2_reg", "convnext", "resnet")


@pytest.mark.slow  # that of dinov3 is in tests/commands
@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_is_right_at_sizes_and_batches_that_were_not_recorded(name: str, exported: Exported) -> None:
    """Positions of the recorded size, and pixels beyond the last whole patch, would show."""
    backbone = network(name)
    told, run = onnx.opened(exported(name, "onnx"))
    recorded = (SHOWN[1] * told.patch_size, SHOWN[2] * told.patch_size)
    assert recorded not in sizes(told)
    assert len(sizes(told)) >= 4
    assert all(row.holds for row in compare(run, Outputs(backbone, told.outputs), told))
    images = torch.randn(3, 3, 9 * told.patch_size, 6 * told.patch_size + 1, generator=torch.Generator().manual_seed(1))
    for found, expected in zip(run(images), Outputs(backbone, told.outputs)(images), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)  # another order of the same sums


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2", "resnet"])  # convnext is in test_torch_export
def test_half_precision_is_within_its_bound_and_not_exact(name: str, exported: Exported) -> None:
    file = exported(name, "onnx", "fp16")
    told, run = onnx.opened(file)
    rows = compare(run, Outputs(network(name), told.outputs), told)
    assert all(row.holds for row in rows)
    assert max(row.error / max(row.scale, 1) for row in rows) > 1e-4  # as of float32 it would not be
    held = {each.data_type for each in format.load(file).graph.initializer if len(each.dims) > 1 and max(each.dims) > 8}
    assert format.TensorProto.FLOAT16 in held


@pytest.mark.slow
def test_any_reader_finds_names_pixels_and_weights_in_the_file(exported: Exported) -> None:
    session = onnxruntime.InferenceSession(exported("dinov2", "onnx"), providers=["CPUExecutionProvider"])
    kept, backbone = session.get_modelmeta().custom_metadata_map, network("dinov2")
    assert kept["mean"] == "[0.5, 0.4, 0.3]"
    assert kept["std"] == "[0.2, 0.3, 0.4]"
    assert (kept["size"], kept["patch_size"], kept["channels"]) == ("16", "4", "3")
    assert kept["weights"] == digest_of_model(backbone)
    assert kept["outputs"] == '["cls", "patches", "layer_0"]'
    (images,) = session.get_inputs()
    assert (images.name, images.shape) == ("images", ["batch", 3, "height", "width"])
    assert [each.name for each in session.get_outputs()] == ["cls", "patches", "layer_0"]
    assert session.get_outputs()[0].shape == ["batch", 16]


@pytest.mark.slow
def test_weights_of_more_than_a_file_holds_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "MOST", 1_000)
    backbone, out = network("dinov2"), tmp_path / "large.onnx"
    told = about(backbone, ("cls",), model="m", dynamic=False)
    with pytest.raises(UserError, match="leave out int8"):
        onnx.write(Outputs(backbone, ("cls",)), told, out, photos=torch.zeros(2, 3, 16, 16))
    onnx.write(Outputs(backbone, ("cls",)), told, out)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    assert all(row.holds for row in compare(onnx.opened(out)[1], Outputs(backbone, ("cls",)), told))
    (tmp_path / "large.onnx.data").unlink()
    with pytest.raises(UserError, match="cannot be opened in ONNX Runtime"):
        onnx.opened(out)


def test_what_is_no_file_of_ours_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="cannot be opened in ONNX Runtime"):
        onnx.opened(tmp_path / "a.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2_vits14"])
def test_a_published_size_is_right_at_real_sizes(name: str, tmp_path: Path) -> None:
    backbone = build(ARCHITECTURES[name]).eval().requires_grad_(False)
    for key, each in backbone.named_parameters():
        if "gamma" in key:
            each.fill_(0.3)
        if key == "pos_embed":
            each.copy_(torch.randn(each.shape, generator=torch.Generator().manual_seed(0)))
    told = about(backbone, ("cls", "patches"), model=name, dynamic=True)
    onnx.write(Outputs(backbone, told.outputs), told, tmp_path / "model.onnx")
    read, run = onnx.opened(tmp_path / "model.onnx")
    assert read == told
    assert {(224, 224), (336, 336), (518, 518), (224, 448)} == {*sizes(read)}
    for height, width in ((224, 224), (336, 224)):
        images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(2))
        for found, expected in zip(run(images), Outputs(backbone, told.outputs)(images), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
