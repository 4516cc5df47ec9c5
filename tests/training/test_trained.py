"""What of a backbone learns: that alone moves, and a run that is stopped ends with the same weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call

from dinokit.checkpoints.store import RunFolder
from dinokit.core.messages import UserError
from dinokit.core.numbers import constant
from dinokit.models import vit
from dinokit.models.architecture import Network, build
from dinokit.models.convnets import BatchNorm, ConvNeXtConfig, ResNetConfig
from dinokit.run import engine
from dinokit.run.handover import carried_over
from dinokit.training.config import ALONE, ObjectiveConfigs, Runtime, TrainConfig
from dinokit.training.course import Changes, Stage, Stages, Start
from dinokit.training.step import Trainer
from dinokit.training.trained import LowRank, choose, parsed
from dinokit.views.multicrop import Views
from tests.run.test_engine import assert_same, config, final
from tests.training.test_step import CPU, make_views, tiny

RESNET = ResNetConfig(width=2, depths=(1, 1, 1, 1))


def trainer(trained: str, *, layer_decay: float = 1.0) -> Trainer:
    """A trainer of which that much learns."""
    return Trainer(tiny(optim=replace(tiny().optim, trained=trained, lr=constant(1e-2), layer_decay=layer_decay)), CPU)


def moved(some: Trainer, *, steps: int = 2, views: Views | None = None) -> dict[str, bool]:
    """Take steps, and say of each number of the state whether it is another."""
    before = {name: value.clone() for name, value in some.state().items()}
    for step in range(steps):
        assert some.step([views or make_views()], step=step).finite
    after = some.state()
    return {name: not torch.equal(value, after[name]) for name, value in before.items()}


def test_a_backbone_whose_heads_are_fitted_stays_to_the_bit_and_gets_no_gradient() -> None:
    fitted = trainer("heads")
    found = moved(fitted)
    assert not [name for name, change in found.items() if change and name.startswith("backbone.")]
    for name in ("dino", "ibot"):
        assert found[f"objectives.{name}.head.student.last_layer.weight"]
        assert found[f"objectives.{name}.head.teacher.last_layer.weight"]
    assert not any(name.startswith("optimizer.backbone") for name in fitted.state())
    assert all(parameter.grad is None for parameter in fitted.backbone.student.parameters())
    assert not fitted.backbone.student(make_views().global_crops[0]).cls.requires_grad  # no graph is kept of it


def test_running_statistics_of_a_frozen_network_stay_as_they_are() -> None:
    base = tiny()
    some = replace(
        base,
        backbone=RESNET,
        data=replace(base.data, views=replace(base.data.views, global_size=64, local_size=32)),
        objectives=ObjectiveConfigs({"dino": base.objectives["dino"]}),
        optim=replace(base.optim, trained="heads"),
    )
    draw = torch.Generator().manual_seed(0)
    views = Views(torch.randn(2, 4, 3, 64, 64, generator=draw), torch.randn(4, 4, 3, 32, 32, generator=draw), None)
    found = moved(Trainer(some, CPU), views=views)
    assert found["objectives.dino.head.student.last_layer.weight"]
    assert not [name for name, change in found.items() if change and name.startswith("backbone.")]


def test_the_last_blocks_and_the_norm_alone_move() -> None:
    some = trainer("last:1")
    last = f"blocks.{some.backbone.student.config.depth - 1}."
    found = {
        name.removeprefix("backbone.student."): change
        for name, change in moved(some).items()
        if name.startswith("backbone.student.")
    }
    assert {name for name, change in found.items() if change} >= {"norm.weight", f"{last}attn.qkv.weight"}
    assert not [name for name, change in found.items() if change and not name.startswith((last, "norm"))]


def test_low_rank_changes_move_the_matrices_of_the_blocks_alone_and_by_no_more_than_their_rank() -> None:
    some = trainer("lora:2")
    before = {name: value.clone() for name, value in some.backbone.student.state_dict().items()}
    assert moved(some, steps=3)["backbone.teacher.blocks.0.attn.qkv.weight"]
    for name, value in some.backbone.student.state_dict().items():
        change = (value - before[name]).double()
        if not (name.startswith("blocks.") and value.ndim == 2):
            assert not change.any(), name
            continue
        sizes = torch.linalg.svdvals(change)
        assert sizes[1] > 0
        assert sizes[2] < 1e-4 * sizes[0], name  # float32 sums of three steps
    moments = [name for name in some.state() if name.startswith("optimizer.backbone.") and name.endswith("exp_avg")]
    assert all("/up." in name or "/down." in name for name in moments)
    assert moments


@pytest.mark.parametrize("trained", ["last:1", "lora:2"])
def test_a_mask_token_learns_where_it_is_said(trained: str) -> None:
    """At 0 it would stay, and what stands in for hidden patches would never be fitted to the rest."""
    still, learning = moved(trainer(trained)), moved(trainer(f"{trained}+mask"))
    tokens = {f"backbone.{each}.mask_token" for each in ("student", "teacher")}
    assert {name for name, change in still.items() if change} | tokens == {name for name in learning if learning[name]}


def test_moments_of_a_mask_token_beside_low_rank_changes_are_kept() -> None:
    some, other = trainer("lora:2+mask"), trainer("lora:2+mask")
    moved(some)
    other.load_state({name: value.clone() for name, value in some.state().items()})
    for each in (some, other):
        assert each.step([make_views()], step=2).finite
    assert torch.equal(some.backbone.student.mask_token, other.backbone.student.mask_token)
    assert any("mask_token.exp_avg" in name for name in some.state())


def network(**changes: object) -> Network:
    """A small transformer."""
    sizes = {"patch_size": 4, "dim": 16, "depth": 2, "heads": 2, "ffn_hidden": 32} | changes
    return build(vit.Config(**sizes))  # type: ignore[arg-type]


def test_merged_weights_and_folded_gradients_are_those_of_the_factors_beside_them() -> None:
    ours = network()
    factors = choose(ours, "lora:3", seed=0)
    assert isinstance(factors, LowRank)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    apart = {name: value.detach().clone() for name, value in ours.named_parameters()}
    for name, parameter in factors.named_parameters():
        if name.endswith("up"):
            torch.nn.init.normal_(parameter, std=0.1)
    factors.follow([torch.zeros(()) for _ in factors.names])
    explicit: dict[str, Tensor] = {}
    own = {name: parameter.detach().clone().requires_grad_() for name, parameter in factors.named_parameters()}
    for name in factors.names:
        plain = name.replace("/", ".")
        explicit[plain] = apart[plain] + own[f"{name}/up"] @ own[f"{name}/down"]
    beside = functional_call(ours, apart | explicit, (images,))
    merged = ours(images)
    torch.testing.assert_close(merged.patches, beside.patches)
    assert not torch.equal(merged.patches, functional_call(ours, apart, (images,)).patches)
    merged.patches.square().sum().backward()
    factors.fold()
    beside.patches.square().sum().backward()
    for name, parameter in factors.named_parameters():
        torch.testing.assert_close(parameter.grad, own[name].grad, rtol=1e-4, atol=1e-4)
    assert all(parameter.grad is None for parameter in ours.parameters())  # else it would be added to the next


def test_rates_fall_with_depth_for_what_learns() -> None:
    some = trainer("last:1", layer_decay=0.5)
    rates = {group["multipliers"].lr for group in some.optimizer.param_groups}
    assert rates == {1.0, 0.5}  # norm and heads; the last block


@pytest.mark.parametrize(
    "word", ["", "some", "last", "last:0", "last:-1", "lora:x", "heads:2", "lora:1.5", "all+mask", "last+mask"]
)
def test_what_says_nothing_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="optim.trained is all, heads, last:BLOCKS or lora:RANK"):
        parsed(word)


def test_what_a_network_has_not_is_said() -> None:
    with pytest.raises(UserError, match="the network has 2 blocks; give last:2 or fewer"):
        choose(network(), "last:3", seed=0)
    with pytest.raises(UserError, match="the blocks of a resnet have no matrices"):
        choose(build(RESNET), "lora:2", seed=0)
    assert choose(build(ConvNeXtConfig(dims=(8, 8, 16, 16), depths=(1, 1, 1, 1))), "lora:2", seed=0) is not None
    with pytest.raises(UserError, match="no objective has a head"):
        tiny(
            objectives=ObjectiveConfigs({"koleo": tiny().objectives["koleo"]}),
            optim=replace(tiny().optim, trained="heads"),
        )


def adapting(photos: Path, model: Path, trained: str) -> TrainConfig:
    """Three steps of fitting heads, then three of adapting."""
    base = config(photos, steps=3, checkpoint_every=1)
    stage = Stage(
        steps=3,
        changes=Changes(
            {
                "optim": {"trained": trained, "layer_decay": 0.7},
                "objectives": {"gram": {}},
                "anchor": {"source": "start"},
                "data": {"views": {"anchor_size": 16}},
            }
        ),
    )
    experiment = replace(
        base.experiment,
        optim=replace(base.experiment.optim, trained="heads"),
        start=Start(source=str(model)),
        stages=Stages({"adapt": stage}),
    )
    return replace(base, experiment=experiment)


@pytest.mark.parametrize(
    ("trained", "stop"),
    [("lora:2", 4), *(pytest.param(*each, marks=pytest.mark.slow) for each in (("all", 2), ("last:1", 2)))],
)
def test_an_adaptation_stopped_in_either_stage_ends_with_the_same_weights(
    photos: Path, first: Path, tmp_path: Path, trained: str, stop: int
) -> None:
    settings = adapting(photos, first / "model.safetensors", trained)

    def kill(step: int, path: Path) -> None:
        if step == stop:
            raise KeyboardInterrupt

    engine.pretrain(settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(settings, tmp_path / "broken", on_checkpoint=kill)
    assert RunFolder(tmp_path / "broken").steps(with_state=True)[-1] == stop
    engine.pretrain(settings, tmp_path / "broken")
    assert_same(tmp_path / "whole", tmp_path / "broken")
    original = RunFolder(tmp_path / "whole").checkpoint(0) / "model.safetensors"
    fitted = RunFolder(tmp_path / "whole").checkpoint(3) / "model.safetensors"
    assert torch.equal(load_file(original)["norm.weight"], load_file(fitted)["norm.weight"])
    state = final(tmp_path / "whole")
    for name, value in load_file(original).items():  # the anchor is the original, and the teacher has left it
        assert "periods" in name or torch.equal(state[f"anchor.{name}"], value)
    assert not torch.equal(state["backbone.teacher.blocks.1.attn.qkv.weight"], state["anchor.blocks.1.attn.qkv.weight"])


def test_factors_learn_at_the_rate_of_the_depth_of_their_matrix() -> None:
    some = trainer("lora:2", layer_decay=0.5)
    rates = {id(p): group["multipliers"].lr for group in some.optimizer.param_groups for p in group["params"]}
    factors = some.learners[ALONE].low_rank
    assert factors is not None
    found = {name: rates[id(parameter)] for name, parameter in factors.named_parameters()}
    assert {rate for name, rate in found.items() if name.startswith("blocks/0/")} == {0.25}  # of 2 blocks
    assert {rate for name, rate in found.items() if name.startswith("blocks/1/")} == {0.5}


@pytest.mark.parametrize("trained", ["last:1+mask", "lora:2+mask"])
def test_a_mask_token_learns_at_the_rate_of_what_embeds_and_is_clipped_with_the_backbone(trained: str) -> None:
    some = trainer(trained, layer_decay=0.5)
    mask = some.backbone.student.mask_token
    rates = {id(p): group["multipliers"].lr for group in some.optimizer.param_groups for p in group["params"]}
    assert rates[id(mask)] == 0.125  # of 2 blocks
    assert mask in {*some.learners[ALONE].parts()["backbone"].parameters()}  # one norm of its gradients


def test_batch_norms_of_blocks_that_do_not_learn_keep_their_statistics_and_those_of_others_do_not() -> None:
    base = tiny()
    some = replace(
        base,
        backbone=RESNET,
        data=replace(base.data, views=replace(base.data.views, global_size=64, local_size=32)),
        objectives=ObjectiveConfigs({"dino": base.objectives["dino"]}),
        optim=replace(base.optim, trained="last:1"),
    )
    learner = Trainer(some, CPU).learners[ALONE]
    for network in (learner.backbone.student, learner.backbone.teacher):
        training = {name for name, part in network.named_modules() if part.training and isinstance(part, BatchNorm)}
        assert training
        assert all(name.startswith("layer4.") for name in training)
        assert not network.bn1.training


def test_a_run_that_begins_with_low_rank_changes_leaves_their_factors_behind() -> None:
    before, fresh = trainer("lora:2").state(), trainer("lora:3").state()
    carried = carried_over(before, fresh, begin="teacher")
    names = [name for name in fresh if "low_rank." in name]
    assert names
    assert all(torch.equal(carried[name], fresh[name]) for name in names)


def test_stages_of_one_name_and_low_rank_changes_that_are_sharded_are_refused() -> None:
    base = tiny(optim=replace(tiny().optim, trained="heads"))
    with pytest.raises(UserError, match="stages.heads: so the steps before it are called"):
        replace(base, stages=Stages({"heads": Stage(steps=1, changes=Changes({"optim": {"trained": "all"}}))}))
    low_rank = tiny(optim=replace(tiny().optim, trained="lora:2"))
    with pytest.raises(UserError, match="low-rank changes are not sharded.*optim.trained to all"):
        TrainConfig(experiment=low_rank, runtime=Runtime(sharding="fsdp"))
