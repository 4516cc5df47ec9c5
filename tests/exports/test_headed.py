"""A network with its head, as a file, finds what `dinokit predict` finds, at sizes that leave pixels over, too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dinokit.commands.export import TARGETS
from dinokit.core.files import digest_of_weights
from dinokit.core.messages import UserError
from dinokit.dense import attentive, depth, foreground, linear, segmentation
from dinokit.dense.heads import About as AboutHead
from dinokit.exports.headed import Headed, about_headed, expected
from dinokit.exports.parity import compare
from dinokit.models.features import Built
from tests.exports.conftest import network

CLASSES = {"classes": ["cat", "dog", "sky"], "colours": [[0, 0, 0], [1, 1, 1], [2, 2, 2]]}


def _drawn(head: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(1)
    for value in (*head.parameters(), *head.buffers()):
        if value.is_floating_point():
            value.data += 0.3 * torch.randn(value.shape, generator=draw).abs()
    return head.eval().requires_grad_(False)


def _head(task: str, backbone: Built, **how: Any) -> tuple[nn.Module, AboutHead]:
    dim = backbone.dim
    heads: dict[str, nn.Module] = {
        "segmentation": segmentation.LinearHead(segmentation.Config(width=dim, outputs=3)),
        "depth": depth.LinearDepth(depth.LinearConfig(width=dim, cls=True, cls_width=dim, enlarge=4)),
        "dpt": depth.DPT(depth.DPTConfig(widths=(dim,) * 4, fused=4)),
        "foreground": foreground.ForegroundHead(foreground.Config(width=dim)),
        "linear": linear.LinearHead(linear.Config(width=2 * dim, outputs=3, mean_patch=True, blocks=1, loss="bce")),
        "attentive": attentive.AttentiveHead(attentive.Config(width=dim, outputs=3)),
    }
    details = {"low": 0.001, "high": 10.0} if task in ("depth", "dpt") else CLASSES
    layers = (0, 0, 0, 0) if task == "dpt" else 1
    of = AboutHead("depth" if task == "dpt" else task, "m", "d", layers=layers, details=details, **how)
    return _drawn(heads[task]), of


@pytest.mark.parametrize("task", ["segmentation", "depth", "dpt", "foreground", "linear", "attentive"])
@pytest.mark.parametrize("size", [(16, 16), (37, 22)])
def test_what_is_recorded_is_what_predict_computes(task: str, size: tuple[int, int]) -> None:
    backbone = network("dinov2")
    head, of = _head(task, backbone)
    told = about_headed(backbone, head, of, (), model="m", dynamic=True)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    found = Headed(backbone, head, of, told.outputs)(images)
    for name, one, other in zip(told.outputs, found, expected(backbone, head, of, told.outputs)(images), strict=True):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")
    if task in ("segmentation", "depth", "dpt", "foreground"):
        assert found[-1].shape == (2, *size)


TRIED = [
    ("segmentation", "openvino", "dinov2"),
    ("segmentation", "onnx", "dinov3"),
    ("segmentation", "torch-export", "dinov2"),
    ("depth", "onnx", "dinov2"),
    ("depth", "openvino", "convnext"),
    ("dpt", "onnx", "dinov2"),
    ("dpt", "openvino", "dinov2"),
    ("dpt", "torch-export", "dinov2"),
    ("linear", "onnx", "dinov2"),
    ("linear", "openvino", "dinov3"),
    ("attentive", "onnx", "dinov2"),
    ("attentive", "openvino", "dinov2"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "to", "name"), TRIED)
def test_a_file_is_right_at_sizes_that_were_not_recorded(task: str, to: str, name: str, tmp_path: Path) -> None:
    """Of 37 x 37 pixels, patches of 4, one pixel is left over, which predict pads."""
    backbone, target = network(name), TARGETS[to]
    head, of = _head(task, backbone)
    told = about_headed(backbone, head, of, (), model="m", dynamic=True)
    out = tmp_path / f"model{target.SUFFIX}"
    target.write(Headed(backbone, head, of, told.outputs).eval(), told, out)
    read, run = target.opened(out)
    assert read == told
    rows = compare(run, expected(backbone, head, of, told.outputs), told)
    assert len(rows) == 8 * len(told.outputs)
    assert all(row.holds for row in rows), [row for row in rows if not row.holds]


def test_the_file_says_what_predict_does_around_it() -> None:
    backbone = network("dinov2")
    head, of = _head("segmentation", backbone, short=24, crop=22, stride=11)
    told = about_headed(backbone, head, of, ("mask",), model="m", dynamic=False)
    assert (told.short, told.crop, told.stride, told.size) == (24, 22, 11, 22)
    assert told.details["classes"] == ["cat", "dog", "sky"]
    assert (told.task, told.outputs, told.head) == ("segmentation", ("mask",), digest_of_weights(head))
    assert type(told).of(told.plain(), file="f") == told


def test_a_task_or_an_output_that_a_file_cannot_hold_is_one_line() -> None:
    backbone = network("dinov2")
    head, of = _head("depth", backbone)
    with pytest.raises(UserError, match="did you mean 'depth'"):
        about_headed(backbone, head, of, ("depht",), model="m", dynamic=True)
    boxes = AboutHead("detection", "m", "d")
    with pytest.raises(UserError, match="a head of detection finds no values of images or pixels"):
        about_headed(backbone, head, boxes, (), model="m", dynamic=True)
