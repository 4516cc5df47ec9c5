"""Plans: what is asked fits, sums hold, and the largest published run is planned on a machine of any size."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import dinokit
from dinokit import recipes
from dinokit.commands.planned import held
from dinokit.core import device as devices
from dinokit.core.messages import UserError
from dinokit.models.convnets import ConvNeXtConfig
from dinokit.planning import plan as planning
from dinokit.planning.cost import activations, networks, shapes
from dinokit.training import execution
from dinokit.training.config import Experiment, ObjectiveConfigs, Runtime
from dinokit.training.course import Distillation, chosen
from tests.training.test_execution import network


def published_7b() -> Experiment:
    """DINOv3's first stage (arXiv:2508.10104): 256 GPUs, 4,096 images, 1 M steps."""
    return recipes.find("dinov3-vit7b16").experiment.all_stages[0].experiment


def planned(experiment: Experiment, **options: Any) -> planning.Plan:
    settings: dict[str, Any] = {"ranks": 1, "room": None, "rate": 1e14, "bf16": True} | options
    return planning.plan(experiment, Runtime(), **settings)


def test_vit_7b_on_256_gpus() -> None:
    found = planned(published_7b(), ranks=256, room=80e9, rate=989e12 * 0.4)
    assert found.parameters["backbone"] == pytest.approx(6_716e6, rel=0.01)
    assert found.sharded  # 7 billion weights with gradients, moments and teacher are more than 80 GB
    assert found.peak <= 80e9
    assert found.accumulate == 1
    assert 4096 * found.steps == 4_096_000_000  # images seen


def test_a_sharded_layout_holds_everything_once_and_nobody_much_more_than_others() -> None:
    built = networks(published_7b())
    for name, each in (pair for module in built.values() for pair in module.named_parameters()):
        own = [held(tuple(each.shape), rank, ranks=256) for rank in range(256)]
        assert sum(own) == each.numel(), name
        row = each.numel() // each.shape[0]
        assert max(own) - each.numel() / 256 < row, name  # a share differs from the even one by less than a row
    counts = planned(published_7b()).parameters
    for name, module in built.items():
        assert sum(p.numel() for p in module.parameters()) == counts[name]


def test_what_is_proposed_fits_and_is_the_fastest_that_does() -> None:
    experiment = recipes.find("dinov3-vitl16").experiment
    plans = [planned(experiment, ranks=32, room=room * 1e9) for room in (100, 40, 20, 12)]
    assert all(found.peak <= room * 1e9 for found, room in zip(plans, (100, 40, 20, 12), strict=True))
    assert (plans[0].recompute, plans[0].sharded, plans[0].accumulate) == ("none", False, 1)
    assert plans[1].recompute == "selective"
    assert plans[1].accumulate == 1
    assert plans[3].accumulate >= plans[2].accumulate


def test_what_cannot_fit_is_said_with_the_least_that_would() -> None:
    with pytest.raises(UserError, match=r"nothing fits 3 GB: the least is \d+ GB with --data.accumulate"):
        planned(published_7b(), ranks=256, room=3e9)


def test_gpus_that_cannot_share_a_batch_are_a_mistake() -> None:
    with pytest.raises(UserError, match="3 GPUs cannot share the 2048 images"):
        planned(recipes.find("dinov3-vitl16").experiment, ranks=3)


def test_a_distillation_is_not_planned_as_a_pretraining() -> None:
    distil = Distillation(teacher="runs/teacher", students=chosen("vit_tiny"))
    with pytest.raises(UserError, match="a distillation cannot be planned"):
        planned(replace(recipes.find("demo").experiment, distil=distil))


@pytest.mark.parametrize(
    "odd", [{"tflops": 0.0}, {"tflops": float("nan")}, {"gpu_memory": 0.0}, {"gpu_memory": float("nan")}, {"gpus": 0}]
)
def test_machines_that_cannot_be_are_a_mistake(odd: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be positive"):
        dinokit.plan("demo", **({"tflops": 1.0} | odd))


def test_an_absurd_batch_is_planned_as_fast_as_any_other() -> None:
    experiment = recipes.find("dinov3-vits16").experiment
    absurd = replace(experiment, data=replace(experiment.data, batch_size=10**14))  # walked through in weeks
    assert planned(absurd, ranks=10**5, room=20e9).peak <= 20e9


def test_ranks_send_each_other_the_anchor_too() -> None:
    pretrain, anchor, _ = recipes.find("dinov3-vit7b16").experiment.all_stages
    sent = [planned(stage.experiment, ranks=256, room=80e9).traffic["weights"] for stage in (pretrain, anchor)]
    assert sent[1] - sent[0] == pytest.approx(255 / 256 * 2 * 6_716e6, rel=0.01)  # in bfloat16, once


def test_kept_numbers_of_a_block_are_those_that_autograd_keeps() -> None:
    built = network("none")
    for block in built.blocks:
        block.drop_path = 0.0
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.randn(8, 3, 48, 48)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = built(images)
    weights = {parameter.untyped_storage().data_ptr() for parameter in built.parameters()}
    kept = sum(size for pointer, size in storages.items() if pointer not in weights)
    assert features.cls.shape == (8, 64)
    experiment = recipes.find("dinov3-vits16").experiment
    one = replace(
        shapes(experiment)[0][1], backbone=built.config, globals=1, locals=0, global_tokens=features.grid[0] ** 2 + 5
    )
    one = replace(one, backbone=replace(one.backbone, drop_path=0.0))
    assert 8 * activations(one, "none", bf16=False) == pytest.approx(kept, rel=0.15)


def test_the_later_stages_of_the_7b_are_planned_with_their_anchor_and_their_sizes() -> None:
    pretrain, anchor, high_res = (
        planned(stage.experiment, ranks=256, room=80e9, rate=4e14)
        for stage in recipes.find("dinov3-vit7b16").experiment.all_stages
    )
    assert "anchor" not in pretrain.memory
    assert anchor.memory["anchor"] == anchor.memory["EMA teacher"] * 6_716_043_264 / sum(anchor.parameters.values())
    # four times the patches of the teacher's crops, and attention on top
    assert anchor.work["anchor"] > 4 * anchor.work["teacher"]
    assert high_res.peak <= 80e9
    assert high_res.work["teacher"] > 4 * pretrain.work["teacher"]  # 512 and 768 pixels in place of 256
    assert high_res.images <= 2048 // 256


def test_what_does_not_learn_takes_no_gradient_no_moments_and_keeps_nothing() -> None:
    base = recipes.find("dinov3-vits16").experiment
    whole, last, low_rank, heads = (
        planned(replace(base, optim=replace(base.optim, trained=word)), ranks=2)
        for word in ("all", "last:3", "lora:8", "heads")
    )
    of_heads = 4 * (sum(whole.parameters.values()) - whole.parameters["backbone"])
    for name, times in (("gradients", 1), ("AdamW", 2)):
        assert heads.memory[name] == times * of_heads
        # a quarter of the blocks, and the norm
        share = (last.memory[name] / times - of_heads) / 4 / whole.parameters["backbone"]
        assert share == pytest.approx(0.25, abs=0.01)
    assert low_rank.memory["gradients"] > 0.98 * whole.memory["gradients"]  # of whole matrices
    factors = 4 * low_rank.parameters["low-rank changes"]
    assert low_rank.memory["AdamW"] == 2 * (of_heads + factors)
    assert factors < 0.05 * 4 * low_rank.parameters["backbone"]
    sent = [each.traffic["gradients"] for each in (whole, low_rank, heads)]
    assert sent[1] - sent[2] == factors
    assert sent[0] - sent[2] == 4 * whole.parameters["backbone"]
    kept = [each.memory["activations"] for each in (whole, last, heads)]
    assert kept[1] - kept[2] == pytest.approx((kept[0] - kept[2]) / 4)
    assert heads.peak < last.peak < low_rank.peak < whole.peak


def test_an_adaptation_is_planned_by_its_stages(capsys: pytest.CaptureFixture[str]) -> None:
    found = dinokit.plan("adapt-small", tflops=1.0)
    assert list(found) == ["heads", "adapt"]
    assert found["heads"].work["student"] < found["adapt"].work["student"] / 2
    assert "next: dinokit adapt --from MODEL --recipe adapt-small --data FOLDER" in capsys.readouterr().err


def test_what_cannot_fit_here_is_refused_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = recipes.find("dinov3-vits16"), recipes.find("small-cpu")
    monkeypatch.setattr(planning.devices, "memory", lambda _: 24e9)
    with pytest.raises(
        UserError, match=r"needs about .* GB .*stage high_res.*what fits: --data.accumulate \d+"
    ) as said:
        planning.foresee(large, anyway=False)
    assert "small-cpu" in str(said.value)
    assert "--anyway" in str(said.value)
    planning.foresee(large, anyway=True)
    planning.foresee(small, anyway=False)


def test_what_is_foreseen_is_memory_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning.devices, "has_amx", lambda: False)  # in float32
    memory, time = planning.foresee(recipes.find("demo"), anyway=False)
    assert memory.startswith("memory: about 0.8 GB")
    assert "1,850 steps" in time


def test_ranks_of_a_cpu_keep_what_they_average_gradients_in() -> None:
    experiment = recipes.find("demo").experiment
    ways = ({"ranks": 2, "shared": True}, {"ranks": 2}, {"shared": True})
    together, apart, alone = (planned(experiment, **way).memory for way in ways)
    assert together == apart | {"averaging": apart["gradients"]}
    assert "averaging" not in alone


def test_sharded_ranks_of_a_cpu_keep_what_their_messages_lie_in() -> None:
    """Two halves of the largest message, of blocks that travel together or of a head; a GPU's blocks travel alone."""
    experiment = recipes.find("demo").experiment
    how: dict[str, Any] = {"ranks": 2, "room": None, "rate": 1e14, "bf16": False}
    here, apart = (
        planning.plan(experiment, Runtime(sharding="fsdp"), shared=shared, **how).memory for shared in (True, False)
    )
    largest = max(execution._message(network, torch.device("cpu")) for network in networks(experiment).values())
    assert here["messages"] == 2 * 4 * largest
    assert here["gathered"] > apart["gathered"]
    assert "messages" not in apart


def test_only_a_transformer_is_foreseen_whatever_its_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConvNeXtConfig, "whole_patches", True)
    demo = recipes.find("demo")
    kept = {name: each for name, each in demo.experiment.objectives.items() if name != "ibot"}
    changed = {"backbone": ConvNeXtConfig(channels=1), "objectives": ObjectiveConfigs(kept)}
    crops = replace(demo.experiment.data.views, global_size=32, local_size=32)
    data = replace(demo.experiment.data, masks=None, views=crops)
    convnet = replace(demo, experiment=replace(demo.experiment, data=data, **changed))
    (line,) = planning.foresee(convnet, anyway=False)
    assert "not a convnext" in line


def test_what_is_not_foreseen_is_said_and_refuses_nothing() -> None:
    base = recipes.find("demo")
    distil = Distillation(teacher="runs/teacher", students=chosen("vit_tiny"))
    distillation = replace(base, experiment=replace(base.experiment, distil=distil))
    (line,) = planning.foresee(distillation, anyway=False)
    assert line.endswith("not a distillation")


def test_the_memory_of_this_machine_is_a_machines() -> None:
    assert 1e8 < devices.memory(torch.device("cpu")) < 1e15


def test_data_is_a_word_of_plan_too() -> None:
    assert dinokit.plan("demo", data="photos", tflops=1.0).keys() == {"pretrain"}
