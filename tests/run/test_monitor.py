"""Looking leaves no trace, and every failure, provoked in real training, is called by its name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from dinokit import recipes
from dinokit.checkpoints.store import RunFolder
from dinokit.core.files import read_jsonl
from dinokit.core.numbers import constant, ramp
from dinokit.health.probe import open_probe
from dinokit.health.verdict import HEALTHY, Verdict, verdict
from dinokit.images.intensity import Pixels
from dinokit.models import head, vit
from dinokit.objectives import dino, koleo
from dinokit.run import engine
from dinokit.run.monitor import SHARE, Monitor, Repeats, measure
from dinokit.run.setup import Setup
from dinokit.sources.source import in_memory
from dinokit.training import optim
from dinokit.training.config import Data, Experiment, Health, ObjectiveConfigs, Runtime, TrainConfig
from dinokit.training.step import Trainer
from dinokit.views import multicrop
from dinokit.views.loader import Batch, Loader
from tests.ranks import train_on_ranks
from tests.run.test_engine import assert_same, config
from tests.training.test_step import tiny

CPU = torch.device("cpu")
IMAGES, BATCH = 64, 8
Change = Callable[[Trainer], None]


def source(*, labelled: bool = True) -> in_memory:
    """Four tints with noise."""
    draw = numpy.random.default_rng(0)
    labels = numpy.arange(IMAGES) % 4
    pixels = draw.integers(0, 80, (IMAGES, 3, 16, 16)) + 40 * labels[:, None, None, None]
    return in_memory(torch.from_numpy(pixels.astype(numpy.uint8)), labels=labels if labelled else None)


def experiment(*, lr: float = 1e-3, weight: float = 0.1, **of_dino: Any) -> Experiment:
    """Small enough for 30 steps in a second."""
    prototypes = head.Config(hidden=16, bottleneck=8, prototypes=32, init="narrow")
    return tiny(
        data=Data(
            views=multicrop.Config(global_size=16, local_size=8, local_count=1),
            masks=None,
            batch_size=BATCH,
            pixels=Pixels((0.5,), (0.25,), 16),
        ),
        backbone=vit.Config(patch_size=8, dim=32, depth=1, heads=2, ffn_hidden=32, layer_scale=None),
        objectives=ObjectiveConfigs(
            {"dino": dino.Config(head=prototypes, **of_dino), "koleo": koleo.Config(weight=weight)}
        ),
        optim=optim.Config(lr=constant(lr), weight_decay=constant(0.0), clip=None),
    )


def loader(settings: Experiment) -> Loader:
    return Loader(source(), settings.data.views, None, settings.data.pixels, patch_size=8, batch=BATCH, seed=0)


def judged(settings: Experiment, *, steps: int, change: Change = lambda trainer: None, looks: int = 4) -> Verdict:
    """Train, make something go wrong in the middle, and judge the log: one line each step, as if of 20 steps."""
    trainer, probe = Trainer(settings, CPU), open_probe(
        source(), settings.data.pixels, side=16, patch_size=8, images=32, seed=0
    )  # fmt: skip
    assert probe is not None
    lines, before = [], None
    for batch in loader(settings).batches(0, steps):
        if batch.step == steps // 2:
            change(trainer)
        report = trainer.step([batch.views], step=batch.step)
        line: dict[str, Any] = {"step": 20 * (batch.step + 1)} | report.values
        if batch.step >= steps - looks:
            found, before = measure(trainer, probe, step=batch.step, before=before)
            line |= {f"health/{name}": value for name, value in found.items()}
        lines.append(line)
    return verdict(lines)


def narrowed(directions: int) -> Change:
    """Let only some dimensions of the features through the final norm, of student and teacher."""

    def change(trainer: Trainer) -> None:
        for network in (trainer.backbone.student, trainer.backbone.teacher):
            with torch.no_grad():
                network.get_parameter("norm.weight")[directions:] = 0
                network.get_parameter("norm.bias").fill_(0.0 if directions else 1.0)

    return change


def shorter(trainer: Trainer) -> None:
    """Shorten what the head normalises: the gradient grows by the same factor."""
    for network in (trainer.parts["dino_head"], trainer.objectives["dino"].get_submodule("head.teacher")):
        with torch.no_grad():
            network.get_submodule("mlp")[-1].weight.mul_(1e-5)  # type: ignore[index]


def test_a_small_run_is_healthy() -> None:
    found = judged(experiment(), steps=40)
    assert found.word == HEALTHY, found.line
    assert "agree to" in found.line


def test_constant_output() -> None:
    found = judged(experiment(lr=1e-9), steps=8, change=narrowed(0))
    assert (found.word, found.cause) == ("collapsing", "constant output"), found.line


def test_one_prototype() -> None:
    unbalanced = {"targets": "centring", "centre_momentum": 1 - 1e-9, "teacher_temperature": constant(0.02)}
    found = judged(experiment(weight=0.0, lr=1e-2, **unbalanced), steps=30, looks=30)
    assert found.cause == "dino: one prototype", found.line
    assert "one prototype of dino takes 100 % of the samples, target entropy 0.00 of 3.47 nats" in found.line


def test_uniform_targets() -> None:
    found = judged(experiment(targets="centring", teacher_temperature=constant(20.0)), steps=12)
    assert found.cause == "dino: uniform targets", found.line
    assert "target entropy 3.47 of 3.47 nats" in found.line


def test_a_koleo_that_cannot_help() -> None:
    alone = replace(experiment(lr=1e-9), objectives=ObjectiveConfigs({"koleo": koleo.Config()}))
    found = judged(alone, steps=8, change=narrowed(2))
    assert found.cause == "few directions", found.line
    assert "KoLeo" in found.line


def test_exploding_gradients() -> None:
    found = judged(experiment(lr=1e-9), steps=16, change=shorter)
    assert (found.word, found.cause, found.since) == ("exploding", "grad_norm/dino_head", 180), found.line


def test_a_loader_that_repeats_itself(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = Loader.build
    monkeypatch.setattr(Loader, "build", lambda self, step, micro=0: build(self, 0, micro))
    engine.pretrain(config(photos, steps=5), tmp_path / "run")
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [line["health/repeated_crops"] for line in lines] == [0, 1, 1, 1, 1]
    assert lines[-1]["verdict"].startswith("repeating since step 2: 100 % of a step's crops were given")
    said = capsys.readouterr().err
    assert said.count("repeating since step 2") == 2  # when it is found, and at the end


def test_looking_leaves_no_trace(photos: Path, tmp_path: Path) -> None:
    """Not in the weights, the optimiser, the centre; with drop path, RoPE augmentation and two micro-batches."""
    for name, every in (("on", 1), ("off", 0)):
        engine.pretrain(config(photos, steps=4, health=Health(every=every)), tmp_path / name)
    assert_same(tmp_path / "on", tmp_path / "off")
    logs = [read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("on", "off")]
    assert all("health/rank_cls" in line and "verdict" in line for line in logs[0])
    assert not any(name.startswith(("health/", "verdict")) for line in logs[1] for name in line)
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]


def test_two_ranks_see_what_one_sees(photos: Path, tmp_path: Path) -> None:
    run = config(photos, steps=1, health=Health(every=1, images=12))
    still = replace(run.experiment, optim=replace(run.experiment.optim, lr=constant(0.0)))
    engine.pretrain(replace(run, experiment=still), tmp_path / "1")
    train_on_ranks(replace(run, experiment=still), tmp_path / "2")
    one, two = (read_jsonl(tmp_path / str(ranks) / "metrics.jsonl")[-1] for ranks in (1, 2))
    assert one.keys() == two.keys()
    signs = [name for name in one if name.startswith("health/") and name != "health/cost"]
    assert len(signs) > 30
    assert {name: two[name] for name in signs} == {name: pytest.approx(one[name], abs=2e-4) for name in signs}


def test_student_and_mode_are_given_back() -> None:
    trainer = Trainer(experiment(), CPU)
    probe = open_probe(source(), Pixels((0.5,), (0.25,)), side=16, patch_size=8, images=8, seed=0)
    assert probe is not None
    noise = torch.get_rng_state()
    measure(trainer, probe, step=0)
    assert torch.equal(torch.get_rng_state(), noise)
    assert trainer.backbone.student.training
    assert all(part.training for part in trainer.backbone.student.modules())
    assert not trainer.backbone.teacher.training
    assert not any(part._forward_pre_hooks for part in trainer.backbone.modules())


def test_sinkhorn_does_not_hide_that_all_images_choose_one_prototype() -> None:
    trainer = Trainer(experiment(teacher_temperature=ramp(0.05, 10.0, steps=50)), CPU)
    probe = open_probe(source(), Pixels((0.5,), (0.25,)), side=16, patch_size=8, images=8, seed=0)
    assert probe is not None
    healthy = measure(trainer, probe, step=0)[0]
    narrowed(0)(trainer)
    found = measure(trainer, probe, step=0)[0]
    assert found["dino/target_entropy_share"] == pytest.approx(1)  # balanced, constant logits say nothing
    assert found["dino/top"] == 1
    assert found["dino/information"] == pytest.approx(0, abs=1e-5)
    assert healthy["dino/information"] > 1e-3
    hot = measure(trainer, probe, step=50)[0]
    assert found["dino/marginal_entropy_share"] < 0.9 < hot["dino/marginal_entropy_share"]  # by the step's temperature


def test_features_that_are_not_finite_are_said_and_stop_nothing() -> None:
    trainer = Trainer(experiment(), CPU)
    probe = open_probe(source(), Pixels((0.5,), (0.25,)), side=16, patch_size=8, images=8, seed=0)
    assert probe is not None
    with torch.no_grad():
        trainer.backbone.teacher.get_parameter("cls_token").fill_(torch.nan)
    assert measure(trainer, probe, step=0) == ({"not_finite": 1.0}, None)


def test_the_probe_is_fixed_and_has_several_images_of_a_class() -> None:
    def opened(images: int, seed: int = 0, labelled: bool = True) -> Tensor:
        probe = open_probe(
            source(labelled=labelled), Pixels(), side=16, patch_size=8, images=images, seed=seed
        )  # fmt: skip
        assert probe is not None
        if not labelled:
            assert probe.labels is None
            return probe.images
        assert probe.labels is not None
        assert len(probe.labels) == len(probe.images)
        return torch.bincount(probe.labels) if images == 16 else probe.images

    assert sorted(opened(16).tolist())[-2:] == [8, 8]  # two of four classes
    assert torch.equal(opened(12), opened(12))
    assert not torch.equal(opened(12), opened(12, seed=1))
    assert len(opened(500, labelled=False)) == IMAGES


def test_measuring_takes_its_share_of_the_time_and_no_more(tmp_path: Path) -> None:
    run = TrainConfig(experiment=replace(experiment(), steps=100), runtime=Runtime(log_every=5))
    setup = Setup(RunFolder(tmp_path), run, CPU, source())
    monitor = Monitor(setup, Trainer(run.experiment, CPU))
    assert monitor._due(5, logged=True)
    monitor.trained, monitor.spent, monitor.last = 100.0, 1.0, 100 * SHARE - 1.01
    assert monitor._due(10, logged=True)
    assert not monitor._due(11, logged=False)
    monitor.last = 100 * SHARE - 0.99
    assert not monitor._due(10, logged=True)
    assert monitor._due(100, logged=True)  # the last
    warm = [{"step": step, "lr": 0.1, "health/not_finite": 0.0} for step in (5, 10)]
    started = Monitor(setup, Trainer(run.experiment, CPU), warm)
    started.trained, started.spent, started.last = 100.0, 2.0, 1.0
    assert not started._due(50, logged=True)
    assert started._due(60, logged=True)  # nobody has looked since it can be judged


def repeats(indices: list[list[int]], *, crops: Tensor | None = None, images: int = 1000) -> dict[str, float]:
    """What is said after batches with these indices, each with other crops unless given."""
    found = Repeats(images=images, batch=4, device=CPU)
    for step, rows in enumerate(indices):
        pixels = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(step)) if crops is None else crops
        found.add([Batch(step, 0, multicrop.Views(pixels, pixels[:0], None), numpy.array(rows), ())])
    return found.values()


def test_repeats_are_counted_for_images_and_for_crops_alone() -> None:
    assert repeats([[0, 1, 2, 3], [4, 5, 6, 7]]) == {"repeated_crops": 0, "repeated_images": 0}
    assert repeats([[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 8, 9]])["repeated_images"] == 0.5  # two steps ago
    assert repeats([[0, 1, 2, 2]])["repeated_images"] == 0.25  # within a step
    same = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert repeats([[0, 1, 2, 3], [4, 5, 6, 7]], crops=same)["repeated_crops"] == 1
    assert repeats([[0, 1, 2, 3], [4, 5, 6, 7]], crops=same.flip(1))["repeated_images"] == 0


def test_images_of_a_small_source_may_return() -> None:
    assert "repeated_images" not in repeats([[0, 1, 2, 3], [3, 2, 1, 0]], images=12)


@pytest.mark.slow
def test_the_demo_is_healthy_from_its_first_step(tmp_path: Path) -> None:
    run = recipes.find("demo")
    data = replace(run.experiment.data, source="demo:fashion")
    runtime = replace(run.runtime, processes=1, tensorboard=False, health=Health(every=10))
    engine.pretrain(
        TrainConfig(experiment=replace(run.experiment, data=data, steps=300), runtime=runtime), tmp_path / "run"
    )
    said = [line["verdict"].split()[0].rstrip(":") for line in read_jsonl(tmp_path / "run" / "metrics.jsonl")]
    assert set(said[:15]) == {"starting"}
    assert set(said[25:]) == {"healthy"}
