"""Predicted operations against torch's counter of a real step."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dinokit.models import vit
from dinokit.objectives import gram
from dinokit.planning.cost import operations, shapes
from dinokit.training.config import Data, Experiment
from dinokit.training.course import Anchor
from dinokit.training.step import Trainer
from dinokit.views import masking, multicrop
from dinokit.views.multicrop import Views
from tests.training.test_step import CPU, tiny

BATCH = 20


def counted(experiment: Experiment, how: Any = "none") -> float:
    """Count a step's operations per image; attention in the form that the counter knows."""
    config = experiment.data.views
    side = config.global_size // experiment.backbone.patch_size
    masks = None
    if experiment.data.masks is not None:
        masks = masking.sample_masks(
            experiment.data.masks, views=2, batch=BATCH, grid=(side, side), seed=0, step=0, first=0
        )
    crops = Views(
        torch.randn(2, BATCH, 3, config.global_size, config.global_size),
        torch.randn(config.local_count, BATCH, 3, config.local_size, config.local_size),
        masks,
        torch.randn(2, BATCH, 3, config.anchor_size, config.anchor_size) if config.anchor_size else None,
    )
    trainer = Trainer(experiment, CPU, recompute=how)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        assert trainer.step([crops], step=0).finite
    return counter.get_total_flops() / BATCH


def experiment(*, local: int = 4, masked: bool = True, anchor: int = 0, **backbone: Any) -> Experiment:
    base = tiny()
    kept = {name: each for name, each in base.objectives.items() if masked or name != "ibot"}
    data = Data(
        views=multicrop.Config(global_size=48, local_size=24, local_count=local, anchor_size=anchor),
        masks=masking.Config() if masked else None,
        batch_size=BATCH,
    )
    config = vit.Config(**({"patch_size": 8, "dim": 64, "depth": 2, "heads": 2, "ffn_hidden": 256} | backbone))
    if not anchor:
        return replace(base, data=data, backbone=config, objectives=kept)  # type: ignore[arg-type]
    kept["gram"] = gram.Config()
    return replace(base, data=data, backbone=config, objectives=kept, anchor=Anchor())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"local": 0}, marks=pytest.mark.slow),
        {"masked": False},
        {"ffn": "swiglu", "ffn_hidden": 96},
        pytest.param({"drop_path": 0.5}, marks=pytest.mark.slow),
        {"anchor": 96},  # 36 patches of 64 numbers: Gram by patches
        {"anchor": 64, "dim": 16, "ffn_hidden": 64},  # by dims
        {"patch_size": 4, "dim": 32, "stem": 8},
        pytest.param({"depth": 5, "registers": 0}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_operations_of_a_step_are_those_that_torch_counts(changes: dict[str, Any]) -> None:
    chosen = experiment(**changes)
    predicted = sum(operations(shapes(chosen)[0][1], "none").values())
    # KoLeo, and the masks that are drawn around their mean, are not predicted
    assert predicted == pytest.approx(counted(chosen), rel=0.02)


@pytest.mark.parametrize("trained", ["heads", "last:2", "last:2+mask", "lora:2"])
def test_operations_of_a_step_in_which_a_part_learns_are_those_that_torch_counts(trained: str) -> None:
    base = experiment(depth=5)
    chosen = replace(base, optim=replace(base.optim, trained=trained))
    predicted = sum(operations(shapes(chosen)[0][1], "none").values())
    assert predicted == pytest.approx(counted(chosen), rel=0.02)
    most = 0.995 if trained == "lora:2" else 0.9 if "mask" in trained else 0.8
    assert predicted < most * sum(operations(shapes(base)[0][1], "none").values())


def test_full_recomputation_costs_another_forward_pass_of_the_blocks() -> None:
    chosen = experiment()
    predicted = [sum(operations(shapes(chosen)[0][1], how).values()) for how in ("none", "full")]
    assert predicted[1] - predicted[0] == pytest.approx(counted(chosen, "full") - counted(chosen), rel=0.02)
