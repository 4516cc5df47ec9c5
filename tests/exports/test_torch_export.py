"""Programs of torch.export compute what our networks do, without dinokit, at sizes that they were not recorded at."""

import json
from pathlib import Path

import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.exports import torch_export
from dinokit.exports.outputs import Outputs
from dinokit.exports.parity import compare
from tests.exports.conftest import Exported, network


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2", "resnet"])
def test_a_program_is_right_at_sizes_and_batches_that_were_not_recorded(name: str, exported: Exported) -> None:
    told, run = torch_export.opened(exported(name, "torch-export"))
    assert all(row.holds for row in compare(run, Outputs(network(name), told.outputs), told))


@pytest.mark.slow
def test_half_precision_is_within_its_bound_at_every_size_and_not_exact(exported: Exported) -> None:
    told, run = torch_export.opened(exported("convnext", "torch-export", "fp16"))
    rows = compare(run, Outputs(network("convnext"), told.outputs), told)
    assert all(row.holds for row in rows)
    assert max(row.error for row in rows) > 1e-4


@pytest.mark.slow
def test_a_fixed_program_takes_the_models_size_alone(exported: Exported) -> None:
    file, backbone = exported("resnet", "torch-export", dynamic=False), network("resnet")
    told, run = torch_export.opened(file)
    assert {row.height for row in compare(run, Outputs(backbone, told.outputs), told)} == {128}
    extra = {"about.json": ""}
    program = torch.export.load(file, extra_files=extra).module()  # as whoever has no dinokit
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(program(images)[0], Outputs(backbone, ("cls",))(images)[0], atol=1e-4, rtol=1e-4)
    assert json.loads(extra["about.json"])["mean"] == "[0.5, 0.4, 0.3]"
    with pytest.raises(AssertionError):
        program(torch.zeros(1, 3, 128, 160))


def test_what_is_no_file_of_ours_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"cannot be opened by torch\.export"):
        torch_export.opened(tmp_path / "a.pt2")
