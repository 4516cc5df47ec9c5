"""One whole step equals the official one, and touches only what it should."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dinokit.checkpoints.layouts.recognise import parts
from dinokit.core.messages import UserError
from dinokit.core.numbers import constant
from dinokit.objectives import ibot, koleo
from dinokit.training.config import Experiment, ObjectiveConfigs, read
from dinokit.training.course import Anchor
from dinokit.training.step import Trainer
from dinokit.views.multicrop import Views

CPU = torch.device("cpu")
GOLDEN = Path(__file__).parent.parent / "golden"


@cache
def official() -> Experiment:
    """The experiment of the golden step."""
    return read(GOLDEN / "dinov3_step.yaml").experiment


def tiny(**changes: object) -> Experiment:
    """The smallest DINOv3 experiment, before there is a Gram term."""
    base = official()
    base = replace(
        base,
        data=replace(base.data, views=replace(base.data.views, anchor_size=0)),
        objectives=ObjectiveConfigs({name: config for name, config in base.objectives.items() if name != "gram"}),
        anchor=None,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def make_views(batch: int = 4, *, masked: bool = True) -> Views:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, batch, 36, generator=generator) < 0.3
    return Views(
        torch.randn(2, batch, 3, 48, 48, generator=generator),
        torch.randn(4, batch, 3, 24, 24, generator=generator),
        masks if masked else None,
    )


def test_no_head_of_one_seed_is_a_head_of_another() -> None:
    # of one shape: with seed + index the second head of seed 0 was the first of seed 1
    objectives = [Trainer(tiny(seed=seed), CPU).objectives for seed in (0, 1)]
    heads = [each[name].state_dict() for each in objectives for name in ("dino", "ibot")]
    weights = {tuple(state["head.student.mlp.0.weight"].flatten()[:4].tolist()) for state in heads}
    assert len(weights) == 4


def _snapshot(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.state().items()}


def anchored(**changes: object) -> Experiment:
    """The tiny experiment with a Gram term."""
    return replace(official(), anchor=Anchor(**changes))  # type: ignore[arg-type]


def _official_trainer(golden: dict[str, Tensor]) -> Trainer:
    trainer = Trainer(anchored(), CPU)
    weights = {name.removeprefix("w."): value for name, value in golden.items() if name.startswith("w.")}
    gram_teacher = {name.replace("gram.", "teacher.", 1): value for name, value in weights.items() if "gram." in name}
    assert trainer.anchor is not None
    trainer.anchor.load_state_dict(parts(gram_teacher)["backbone"])
    for network in ("student", "teacher"):
        found = parts({f"teacher{name[7:]}": value for name, value in weights.items() if name.startswith(network)})
        getattr(trainer.backbone, network).load_state_dict(found["backbone"])
        for name in ("dino", "ibot"):
            getattr(trainer.objectives[name].head, network).load_state_dict(found[f"{name}_head"])
    return trainer


def test_losses_and_gradients_equal_the_official_step() -> None:
    golden = load_file(GOLDEN / "dinov3_step.safetensors")
    trainer = _official_trainer(golden)
    batch = Views(
        golden["in.global_crops"].unflatten(0, (2, -1)),
        golden["in.local_crops"].unflatten(0, (4, -1)),
        golden["in.masks"].unflatten(0, (2, -1)),
        golden["in.gram_crops"].unflatten(0, (2, -1)),
    )
    report = trainer.step([batch], step=0)
    expected = {
        "dino_global": golden["out.dino_global_crops_loss"],
        "dino_local": golden["out.dino_local_crops_loss"],
        "ibot": golden["out.ibot_loss"],
        "koleo": golden["out.koleo_loss"],
        "gram": golden["out.gram_loss"],
    }
    for name, value in expected.items():
        assert report.values[f"loss/{name}"] == pytest.approx(float(value), rel=1e-5), name
    assert report.values["loss"] == pytest.approx(float(golden["out.total"]), rel=1e-5)
    for part, network in trainer.parts.items():
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            norm = float(golden[f"out.gradnorm.{part}.{name.replace('register', 'storage')}"])
            assert float(parameter.grad.norm()) == pytest.approx(norm, rel=1e-4), name


def test_the_teacher_moves_by_the_momentum_alone() -> None:
    trainer = Trainer(tiny(), CPU)
    before = _snapshot(trainer)
    trainer.step([make_views()], step=0)
    after = trainer.state()
    for name in before:
        if ".teacher." in name and after[name].is_floating_point():
            student = after[name.replace(".teacher.", ".student.")]
            torch.testing.assert_close(after[name], 0.9 * before[name] + 0.1 * student)


def test_every_trained_parameter_moves() -> None:
    trainer = Trainer(tiny(), CPU)
    before = _snapshot(trainer)
    trainer.step([make_views()], step=0)
    still = [
        name for name, value in trainer.state().items() if ".student." in name and torch.equal(value, before[name])
    ]
    assert all("periods" in name or name.endswith("centre") for name in still), still


def test_a_step_without_a_finite_loss_changes_nothing() -> None:
    trainer = Trainer(tiny(), CPU)
    trainer.step([make_views()], step=0)
    before = _snapshot(trainer)
    broken = make_views()
    broken.global_crops[0, 0, 0, 0, 0] = float("nan")
    report = trainer.step([make_views(), broken], step=1)
    assert not report.finite
    after = trainer.state()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_renewal_of_the_anchor_is_not_lost_with_the_step_that_it_falls_on() -> None:
    trainer = Trainer(anchored(every=2, most=1), CPU)
    views_of = replace(make_views(), anchor_crops=torch.randn(2, 4, 3, 96, 96))
    trainer.step([views_of], step=0)
    broken = replace(views_of, global_crops=views_of.global_crops.clone())
    broken.global_crops[0, 0, 0, 0, 0] = float("nan")
    assert not trainer.step([broken], step=1).finite
    assert trainer.anchor is not None
    for ours, teachers in zip(trainer.anchor.parameters(), trainer.backbone.teacher.parameters(), strict=True):
        assert torch.equal(ours, teachers)


def test_two_equal_micro_batches_give_the_gradient_of_one() -> None:
    """Each micro-batch is normalised on its own, so equal ones must average to the same losses and weights."""
    once, twice = Trainer(tiny(), CPU), Trainer(tiny(), CPU)
    first = once.step([make_views()], step=0)
    second = twice.step([make_views(), make_views()], step=0)
    assert second.values["loss"] == pytest.approx(first.values["loss"], rel=1e-6)
    for name, value in once.state().items():
        torch.testing.assert_close(twice.state()[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_a_step_is_a_function_of_state_and_step() -> None:
    experiment = tiny()
    dropping = replace(experiment, backbone=replace(experiment.backbone, drop_path=0.5))
    results = []
    for noise in (1, 2):
        trainer = Trainer(dropping, CPU)
        torch.manual_seed(noise)  # whatever the global generator did before must not matter
        results.append(trainer.step([make_views()], step=7).values)
    assert results[0] == results[1]


def test_networks_run_only_when_an_objective_needs_them() -> None:
    experiment = tiny(objectives=ObjectiveConfigs({"koleo": koleo.Config(weight=1.0)}))
    trainer = Trainer(experiment, CPU)
    ran: list[str] = []
    trainer.backbone.teacher.register_forward_hook(lambda *_: ran.append("teacher"))
    trainer.backbone.student.register_forward_hook(lambda *_: ran.append("student"))
    trainer.step([make_views(masked=False)], step=0)
    assert ran == ["student"]


def test_a_shared_head_is_trained_and_averaged_once() -> None:
    shared = tiny().objectives | {"ibot": ibot.Config(head=None, teacher_temperature=constant(0.07))}
    trainer = Trainer(tiny(objectives=ObjectiveConfigs(shared)), CPU)
    assert list(trainer.parts) == ["backbone", "dino_head"]
    before = _snapshot(trainer)
    trainer.step([make_views()], step=0)
    name = "objectives.dino.head.{}.last_layer.weight"
    teacher, student = (trainer.state()[name.format(network)] for network in ("teacher", "student"))
    torch.testing.assert_close(teacher, 0.9 * before[name.format("teacher")] + 0.1 * student)


def with_anchor_crops(views: Views) -> Views:
    large = torch.randn(2, 4, 3, 96, 96, generator=torch.Generator().manual_seed(9))
    return replace(views, anchor_crops=large)


def test_the_anchor_stays_until_it_is_due_and_is_then_the_teacher() -> None:
    trainer = Trainer(anchored(first=2, every=2, most=1), CPU)
    kept = _anchor(trainer)
    moved = []
    for step in range(5):
        trainer.step([with_anchor_crops(make_views())], step=step)
        moved.append(any(not torch.equal(now, was) for now, was in zip(_anchor(trainer), kept, strict=True)))
        kept = _anchor(trainer)
        if step == 1:
            teacher = [value.clone() for value in trainer.backbone.teacher.state_dict().values()]
            assert all(torch.equal(now, was) for now, was in zip(kept, teacher, strict=True))
    assert moved == [False, True, False, False, False]


def _anchor(trainer: Trainer) -> list[Tensor]:
    assert trainer.anchor is not None
    return [value.clone() for value in trainer.anchor.state_dict().values()]


def test_the_anchor_goes_into_the_state_and_back() -> None:
    one, other = Trainer(anchored(), CPU), Trainer(anchored(), CPU)
    one.step([with_anchor_crops(make_views())], step=0)
    one.renew_anchor()
    other.load_state(one.state())
    assert all(torch.equal(a, b) for a, b in zip(_anchor(one), _anchor(other), strict=True))
    batch = with_anchor_crops(make_views())
    assert one.step([batch], step=1).values == other.step([batch], step=1).values


def test_the_teacher_itself_may_be_the_anchor() -> None:
    base = anchored()
    views_config = replace(base.data.views, anchor_size=0)
    experiment = replace(base, data=replace(base.data, views=views_config), anchor=Anchor(source="teacher"))
    trainer = Trainer(experiment, CPU)
    assert not any(name.startswith("anchor.") for name in trainer.state())
    hidden_nothing = replace(make_views(), masks=torch.zeros(2, 4, 36, dtype=torch.bool))
    report = trainer.step([hidden_nothing], step=0)
    assert report.values["loss/gram"] == pytest.approx(0, abs=1e-9)  # student and teacher begin equal
    assert trainer.step([hidden_nothing], step=1).values["loss/gram"] > 1e-9


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"anchor": None}, "objective 'gram' needs an anchor"),
        ({"anchor": Anchor(source="teacher")}, "nobody looks at the crops of data.views.anchor_size 96"),
        ({"objectives": tiny().objectives}, "an anchor is set, but no objective looks at it"),
        ({"data": tiny().data}, "the anchor needs crops of its own; set data.views.anchor_size to 48 or 96"),
    ],
)
def test_an_anchor_without_use_and_a_use_without_anchor_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(anchored(), **changes)  # type: ignore[arg-type]
