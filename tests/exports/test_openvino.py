"""OpenVINO computes what our networks do, at sizes that were not recorded, where float32 is asked for."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dinokit.core.files import digest_of_model
from dinokit.core.messages import UserError
from dinokit.exports import openvino
from dinokit.exports.outputs import Outputs, Precision, about
from dinokit.exports.parity import compare
from tests.exports.conftest import NETWORKS, Exported, network


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "dinov2" else pytest.mark.slow) for name in NETWORKS]
)
def test_a_file_is_right_at_sizes_and_batches_that_were_not_recorded(name: str, exported: Exported) -> None:
    backbone = network(name)
    told, run = openvino.opened(exported(name, "openvino"))
    assert all(row.holds for row in compare(run, Outputs(backbone, told.outputs), told))
    images = torch.randn(3, 3, 9 * told.patch_size, 6 * told.patch_size + 1, generator=torch.Generator().manual_seed(1))
    for found, expected in zip(run(images), Outputs(backbone, told.outputs)(images), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)  # another order of the same sums


def test_nothing_is_reported_to_its_makers() -> None:
    openvino.check_installed()
    assert type(openvino.quiet("openvino.tools.ovc").telemetry).__module__ == "openvino.tools.ovc.telemetry_stub"


def test_any_reader_finds_names_pixels_and_weights_beside_the_steps(exported: Exported) -> None:
    file = exported("dinov2", "openvino")
    assert sorted(each.suffix for each in file.parent.glob(f"{file.stem}.*")) == [".bin", ".xml"]
    model = openvino.quiet("openvino").Core().read_model(file)
    kept = {key: value.astype(str) for key, value in model.get_rt_info()["dinokit"].items()}
    assert kept["mean"] == "[0.5, 0.4, 0.3]"
    assert kept["weights"] == digest_of_model(network("dinov2"))
    assert kept["inference_precision"] == "f32"  # or it computes in bfloat16 where the processor does
    assert [each.get_names() for each in (*model.inputs, *model.outputs)] == [
        {"images"},
        {"cls"},
        {"patches", "layer_0"},
    ]
    assert str(model.inputs[0].get_partial_shape()) == "[?,3,?,?]"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_within_its_bound_and_not_exact(precision: Precision, exported: Exported) -> None:
    file = exported("dinov3", "openvino", precision)
    told, run = openvino.opened(file)
    rows = compare(run, Outputs(network("dinov3"), told.outputs), told)
    assert all(row.holds for row in rows)
    assert max(row.error for row in rows) > 1e-4  # as of float32 it would not be
    assert (
        file.with_suffix(".bin").stat().st_size
        < 0.7 * exported("dinov3", "openvino").with_suffix(".bin").stat().st_size
    )


@pytest.mark.parametrize(("name", "kind"), [("dinov2", "transformer"), ("convnext", None)])
def test_the_kind_of_network_decides_how_nncf_treats_it(
    name: str, kind: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A treatment of transformers spoils a ConvNet, whose networks of a few channels int8 spoils as well."""
    asked: dict[str, object] = {}
    tools = SimpleNamespace(
        ModelType=SimpleNamespace(TRANSFORMER="transformer"),
        Dataset=list,
        quantize=lambda model, data, **how: asked.update(how, images=len(data)) or model,
    )
    plain = openvino.quiet
    monkeypatch.setattr(openvino, "quiet", lambda library, **how: tools if library == "nncf" else plain(library, **how))
    backbone = network(name)
    told = about(backbone, ("cls",), model=name, dynamic=False, precision="int8")
    photos = torch.zeros(3, 3, told.size, told.size)
    openvino.write(Outputs(backbone, told.outputs, "int8").eval(), told, tmp_path / "a.xml", photos=photos)
    assert asked == {"model_type": kind, "subset_size": 3, "images": 3}


def test_what_is_no_file_of_ours_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("nothing of the kind")
    with pytest.raises(UserError, match="cannot be opened in OpenVINO"):
        openvino.opened(tmp_path / "a.xml")
