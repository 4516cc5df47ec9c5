"""Students by groups of ranks: the numbers are those of one process, and the teacher's work is divided."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dinokit import config as configuration
from dinokit.checkpoints.load import load
from dinokit.core import dist
from dinokit.core.files import read_jsonl
from dinokit.core.messages import UserError
from dinokit.models.architecture import Architecture
from dinokit.objectives import koleo
from dinokit.run import engine, ranks
from dinokit.sources.source import open_source
from dinokit.training.config import HALVES, Health, ObjectiveConfigs, TrainConfig
from dinokit.training.step import Report, Trainer
from tests.ranks import on_ranks, train_on_ranks
from tests.run.test_engine import assert_same, config, final, losses
from tests.run.test_engine import loader as fed
from tests.training.test_distil import CONV, SMALL, learning

# rank 0 trains the convolution, and others the transformer, which stands for the run in health and reports
STUDENTS: dict[str, Architecture] = {"conv": CONV, "small": replace(SMALL, drop_path=0.0)}


def settings(photos: Path, teacher: Path, *, processes: int, **runtime: object) -> TrainConfig:
    """Two students, in groups if there are several processes; micro-batches are large enough for four."""
    base = learning(photos, teacher, STUDENTS, processes=processes, **runtime)
    changed = {"data.batch_size": 8, "runtime.groups": processes > 1}
    without_koleo = {"objectives.koleo": None}  # which divides by the distance of nearly equal features
    return configuration.override(base, changed | without_koleo, hidden=HALVES)


def assert_close(run: Path, alone: Path) -> None:
    """Up to rounding, with the tolerances of `test_ranks.py`."""
    for step, loss in losses(alone).items():
        assert losses(run)[step] == pytest.approx(loss, rel=1e-4)
    found, wanted = final(run), final(alone)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if not value.is_floating_point():
            assert torch.equal(found[name], value), name
        elif value.norm():
            assert float((found[name] - value).norm() / value.norm()) < 1e-2, name


@pytest.mark.slow  # teams of ranks are in test_a_step_that_one_student_cannot_take_is_taken_by_none, too
@pytest.mark.parametrize("count", [2, 4])
def test_groups_of_ranks_distil_as_one_process(count: int, photos: Path, teacher: Path, tmp_path: Path) -> None:
    """Losses and gradients of both students, weights, moments, the health of the one that is shown, and its files."""
    alone, grouped = tmp_path / "alone", tmp_path / "grouped"
    watched = Health(every=2, images=12)
    engine.pretrain(settings(photos, teacher, processes=1, health=watched), alone)
    train_on_ranks(settings(photos, teacher, processes=count, health=watched), grouped, count=count)
    assert_close(grouped, alone)
    for one, other in zip(*(read_jsonl(run / "metrics.jsonl") for run in (alone, grouped)), strict=True):
        assert one.keys() == other.keys()
        measured = [name for name in one if name.startswith(("loss/", "grad_norm/"))]
        assert len(measured) == 2 * (3 + 3)  # of each student
        assert {name: other[name] for name in measured} == {
            name: pytest.approx(one[name], rel=1e-3, abs=1e-6) for name in measured
        }
        # a transformer that rank 0 does not train would be the untrained one, and stand still
        signs = [name for name in one if name in ("health/student_change", "health/teacher_change", "health/rank_cls")]
        assert len(signs) == (0 if one["step"] % 2 else 1 if one["step"] == 2 else 3)
        assert {name: other[name] for name in signs} == {name: pytest.approx(one[name], rel=0.05) for name in signs}
        assert one.get("health/repeated_crops") == other.get("health/repeated_crops")
    images = torch.rand(2, 3, 32, 32)
    for name in STUDENTS:
        theirs = load(grouped / f"{name}.safetensors")(images).cls
        assert torch.allclose(theirs, load(alone / f"{name}.safetensors")(images).cls, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_run_goes_on_without_groups_and_with_them(
    first: int, then: int, photos: Path, teacher: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    engine.pretrain(settings(photos, teacher, processes=1), whole)

    def kill(step: int, path: Path) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(settings(photos, teacher, processes=first), parts, on_checkpoint=kill)
    (engine.pretrain if then == 1 else train_on_ranks)(settings(photos, teacher, processes=then), parts)
    assert_close(parts, whole)


def _poisoned(settings: TrainConfig, run: Path) -> None:
    """Make the crops of rank 0 bad in one step."""
    original = Trainer.step

    def step(self: Trainer, micro_batches: list[Any], *, step: int) -> Report:
        if step == 2 and dist.rank() == 0:
            micro_batches[0].local_crops.fill_(torch.nan)
        return original(self, micro_batches, step=step)

    Trainer.step = step  # type: ignore[method-assign]
    engine.pretrain(settings, run)


def test_a_step_that_one_student_cannot_take_is_taken_by_none(photos: Path, teacher: Path, tmp_path: Path) -> None:
    """The teacher does not see local crops, so that those of rank 0 are bad for its own student alone."""
    train_on_ranks(settings(photos, teacher, processes=2), tmp_path / "run", train=_poisoned)
    taken = {name: int(value) for name, value in final(tmp_path / "run").items() if name.endswith(".step")}
    assert {name.split(".")[1] for name in taken} == set(STUDENTS)
    assert set(taken.values()) == {3}
    (bad,) = read_jsonl(tmp_path / "run" / "bad_steps.jsonl")
    assert bad["step"] == 3
    assert "loss/conv/dino_local" in bad["fault"]
    assert "small" not in bad["fault"]
    assert len(bad["images"]) == 8  # each once, although both ranks hold it


def _look_on(rank: int, store: str, written: str) -> None:
    torch.set_num_threads(1)
    rendezvous = {"backend": "gloo", "init_method": f"file://{store}", "rank": rank, "world_size": 2}
    dist.join(**rendezvous)
    made = configuration.from_plain(TrainConfig, configuration.read_yaml(Path(written)))
    source = open_source(made.experiment.data.source)
    distiller = Trainer(made.experiment, torch.device("cpu"), teams=True)
    distiller.begin(source)
    assert distiller.teacher is not None
    seen: list[torch.Size] = []
    distiller.teacher.network.register_forward_hook(lambda _, images, __: seen.append(images[0].shape))
    loader = fed(made, distiller)
    batch = loader.build(0, 0)
    assert len(batch.indices) == 4  # this rank holds the whole micro-batch
    assert distiller.step([batch.views], step=0).finite
    # of four images two, as two crops each; the transformer has 4 x 4 patches, and so has the teacher at 16 pixels
    assert seen == [torch.Size([4, 3, 16, 16])]
    own = list(STUDENTS)[rank]
    assert {part.split(".")[0] for part in distiller.parts} == {own}
    assert set(distiller.own) == {own}
    dist.leave()


def test_the_teacher_looks_at_each_image_once_overall(photos: Path, teacher: Path, tmp_path: Path) -> None:
    written = tmp_path / "config.yaml"
    written.write_text(configuration.to_yaml(settings(photos, teacher, processes=2)))
    on_ranks(_look_on, str(tmp_path / "store"), str(written))


def test_groups_want_as_many_ranks_for_each_student(photos: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="among 2 students, which 3 cannot be; take 2 or 4"):
        engine.pretrain(settings(photos, teacher, processes=3), tmp_path / "run")
    with pytest.raises(UserError, match="2 processes cannot share the 3 images"):
        odd = configuration.override(settings(photos, teacher, processes=2), {"data.batch_size": 6}, hidden=HALVES)
        engine.pretrain(odd, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_rank_holds_is_a_share_among_its_group(photos: Path, teacher: Path) -> None:
    """Of 12 images a rank holds 6, or with groups all; KoLeo seeks neighbours in fours, which do not divide 6."""
    large = {"data.batch_size": 12, "data.accumulate": 1}
    grouped = configuration.override(settings(photos, teacher, processes=2), large, hidden=HALVES)
    experiment = replace(grouped.experiment, objectives=ObjectiveConfigs({"koleo": koleo.Config(group=4)}))
    assert ranks.misfit(experiment, grouped.runtime, 2) == ""
    plain = replace(grouped.runtime, groups=False)
    assert "koleo.group 4 must divide the 6 images" in ranks.misfit(experiment, plain, 2)


def test_groups_are_for_students_and_said_to_be_idle_in_one_process(
    photos: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"runtime\.groups is for the students of a distillation"):
        config(photos, groups=True)
    plain = settings(photos, teacher, processes=1)
    engine.pretrain(plain, tmp_path / "plain")
    assert "runtime.groups" not in capsys.readouterr().err
    engine.pretrain(replace(plain, runtime=replace(plain.runtime, groups=True)), tmp_path / "idle")
    assert "runtime.groups has no effect in a single process" in capsys.readouterr().err
    assert_same(tmp_path / "plain", tmp_path / "idle")
