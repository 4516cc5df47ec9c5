"""What is computed again changes memory, never a number."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dinokit.models.vit import VisionTransformer
from dinokit.training.execution import Recompute, set_recompute
from dinokit.training.step import Trainer
from tests.training.test_step import CPU, make_views, tiny


def network(how: Recompute) -> VisionTransformer:
    config = replace(tiny().backbone, drop_path=0.5)
    built = VisionTransformer(config, seed=0).train()
    set_recompute(built, how)
    return built


def kept_bytes(how: Recompute) -> int:
    """Count what a forward pass of the blocks keeps for its backward pass, each tensor once."""
    built = network(how)
    for block in built.blocks:
        block.drop_path = 0.0
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        tokens = torch.randn(8, 37, 64, requires_grad=True)
        kept = [tokens]
        for block in built.blocks:
            kept.append(block(kept[-1], None))
        weights = {parameter.untyped_storage().data_ptr() for parameter in built.parameters()}
    return sum(size for pointer, size in storages.items() if pointer not in weights)


@pytest.mark.parametrize("how", ["selective", "full"])
def test_weights_after_two_steps_are_the_same_with_stochastic_depth(how: Recompute) -> None:
    experiment = tiny(backbone=replace(tiny().backbone, drop_path=0.5))
    states = []
    for chosen in ("none", how):
        trainer = Trainer(experiment, CPU, recompute=chosen)  # type: ignore[arg-type]
        for step in range(2):
            assert trainer.step([make_views()], step=step).finite
        states.append(trainer.state())
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize("how", ["selective", "full"])
def test_in_bf16_the_loss_and_the_gradient_are_those_of_none(how: Recompute) -> None:
    reports = []
    for chosen in ("none", how):
        trainer = Trainer(tiny(precision="bf16"), CPU, recompute=chosen)  # type: ignore[arg-type]
        reports.append(trainer.step([make_views()], step=0).values)
    assert reports[0] == pytest.approx(reports[1], rel=1e-3)


def test_full_keeps_what_enters_the_blocks_and_no_more() -> None:
    assert kept_bytes("full") <= 2 * 8 * 37 * 64 * 4


def test_only_full_computes_matrix_products_twice() -> None:
    work: dict[Recompute, int] = {}
    for how in ("none", "selective", "full"):
        built = network(how)  # type: ignore[arg-type]
        with FlopCounterMode(display=False) as counter:
            built(torch.zeros(2, 3, 24, 24)).patches.sum().backward()
        work[how] = counter.get_total_flops()  # type: ignore[index]
    assert work["selective"] == work["none"]
    assert work["full"] > 1.2 * work["none"]


def test_recomputed_blocks_are_not_the_teachers() -> None:
    trainer = Trainer(tiny(), CPU, recompute="full")
    assert not any("forward" in vars(block) for block in trainer.backbone.teacher.blocks)


@pytest.mark.slow  # it runs a C++ compiler
def test_a_compiled_step_takes_the_same_step_up_to_rounding() -> None:
    losses = []
    for compiled in (False, True):
        trainer = Trainer(tiny(), CPU, recompute="selective" if compiled else "none", compiled=compiled)
        losses.append([trainer.step([make_views()], step=step).values["loss"] for step in range(2)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
