"""The verb `adapt`: the guard measures, goes back to the best teacher, and the same command changes nothing."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from dinokit.checkpoints.store import RunFolder, header
from dinokit.commands import adapt, fitting, guarding
from dinokit.commands.guarding import Guard, Watched, watched
from dinokit.commands.pretrain import pretrain
from dinokit.core.files import read_jsonl
from dinokit.core.messages import UserError
from dinokit.models.vit import VisionTransformer
from dinokit.run import engine
from dinokit.sources.source import open_source
from dinokit.training.config import TrainConfig
from tests.ranks import train_on_ranks
from tests.run.test_engine import assert_same, config
from tests.vits import ARCHITECTURE, vit

CPU = torch.device("cpu")
MakeFolder = Callable[..., Path]
FEW = {
    "data.batch_size": 4, "objectives.koleo.group": 4, "objectives.dino.head.prototypes": 16, "checkpoint_every": 1,
    "objectives.ibot.head.prototypes": 16, "workers": 0, "tensorboard": False, "device": "cpu", "processes": 1,
}  # fmt: skip


@pytest.fixture
def classes(make_folder: MakeFolder) -> Path:
    """Two classes of a colour each, which an untrained network tells apart."""
    return make_folder(*(f"{name}/{index}.png" for name in ("red", "teal") for index in range(6)), name="classes")


def written(run: RunFolder, step: int, *, seed: int | None) -> None:
    """Save a teacher of a step; without a seed one that sees nothing."""
    backbone = vit(seed=seed or 0)
    blind = "patch_embed" if seed is None else "-"
    state = {name: value * 0 if blind in name else value for name, value in backbone.state_dict().items()}
    run.checkpoint(step).mkdir(parents=True, exist_ok=True)
    save_file(state, run.checkpoint(step) / "model.safetensors", header(ARCHITECTURE, backbone.pixels, step=step))


def test_the_guard_goes_back_to_the_best_teacher(classes: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    guard = Guard(run, [Watched("folder", str(classes), "knn")], allowed=2.0, first=5, device=CPU)
    for step, seed in ((0, 0), (5, 0), (10, 1), (20, None)):
        written(run, step, seed=seed)
        assert guard.look(step) is (step == 20), step
    assert [line["step"] for line in guard.lines()] == [0, 10, 20]  # up to 5 it is the original
    assert guard.ended()
    assert guard.best() == 10
    guard.publish("model.safetensors")
    best = run.checkpoint(10) / "model.safetensors"
    assert (run.path / "model.safetensors").read_bytes() == best.read_bytes()
    assert (run.path / "best.safetensors").read_bytes() == best.read_bytes()
    said = r"fell from 100.0 to \d+.0, by more than 2: stopped at step 20; published is the teacher of step 10"
    assert re.search(said, guard.verdict())
    written(run, 20, seed=2)  # trained again, with a lower rate
    assert not guard.look(20)
    assert not guard.ended()


def test_what_was_measured_of_steps_that_are_trained_again_does_not_count(classes: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    guard = Guard(run, [Watched("folder", str(classes), "knn")], allowed=2.0, first=0, device=CPU)
    for step, seed in ((0, 0), (10, 1), (20, None)):
        written(run, step, seed=seed)
        guard.look(step)
    written(run, 10, seed=3)
    assert not guard.look(10)
    assert [line["step"] for line in guard.lines()] == [0, 10]


def test_images_without_classes_are_measured_by_locality(classes: Path, make_folder: MakeFolder) -> None:
    plain = make_folder(*(f"{index}.png" for index in range(4)), name="plain")
    each = [watched("folder", str(path), open_source(str(path))) for path in (plain, classes)]
    assert [one.how for one in each] == ["locality", "knn"]
    assert -100 < each[0].measure(vit()) < 100


def test_classes_measure_where_the_images_that_are_looked_at_have_company(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = make_folder(*(f"{name}/0.png" for name in "abcd"), name="alone")
    pairs = make_folder(*(f"{name}/{index}.png" for name in "abcdef" for index in range(2)), name="pairs")
    assert watched("folder", str(alone), open_source(str(alone))).how == "locality"
    assert watched("folder", str(pairs), open_source(str(pairs))).how == "knn"
    monkeypatch.setattr(guarding, "IMAGES", 4)  # evenly spaced, of most classes one
    assert watched("folder", str(pairs), open_source(str(pairs))).how == "locality"


def test_domains_are_asked_across_only_where_they_share_a_class(make_folder: MakeFolder) -> None:
    some = open_source(str(make_folder("a/0.png", "a/1.png", "b/0.png", "b/1.png", name="some")))
    for domains, how in ((["x", "y", "x", "y"], "retrieval"), (["x", "x", "y", "y"], "locality")):
        assert watched("folder", some.name, replace(some, domains=numpy.array(domains))).how == how


def test_a_run_does_not_compare_what_was_measured_of_other_sets(classes: Path, tmp_path: Path) -> None:
    run, folder = RunFolder(tmp_path / "run"), Watched("folder", str(classes), "knn")
    written(run, 0, seed=0)
    Guard(run, [folder], allowed=2.0, first=0, device=CPU).look(0)
    Guard(run, [folder], allowed=9.0, first=0, device=CPU).check()
    others = ([folder, Watched("retained", "photos", "knn")], [Watched("folder", str(classes), "locality")])
    for sets, said in zip(others, ("retained photos", "locality"), strict=True):
        with pytest.raises(UserError, match=rf"is guarded by folder .*\(k-NN .*, not by .*{said}.*--retain"):
            Guard(run, sets, allowed=2.0, first=0, device=CPU).check()


def test_the_original_is_what_the_run_has_begun_with_and_not_what_its_file_became(
    classes: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    guard = Guard(run, [Watched("folder", str(classes), "locality")], allowed=2.0, first=0, device=CPU)
    written(run, 0, seed=0)  # and not yet measured: the process was killed in between
    guard.begin(partial(vit, seed=1))
    guard.look(0)
    own, other = (guard.sets[0].measure(vit(seed=seed)) for seed in (0, 1))
    assert guard.lines()[0]["folder"] == own != other


def test_steps_that_are_not_measured_are_named_and_do_not_pass_for_kept(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    guard = Guard(run, [Watched("folder", str(classes), "locality")], allowed=2.0, first=0, device=CPU)
    guard.begin(vit)
    written(run, 0, seed=0)
    written(run, 1, seed=1)

    def fails(*_: object) -> float:
        raise UserError("no image can be read")

    monkeypatch.setattr(Watched, "measure", fails)
    assert not guard.look(1)
    assert guard.best() == 0
    assert "nothing is lost" not in guard.verdict()
    assert guard.verdict().endswith("published is the original; not measured: step 1")
    monkeypatch.setattr(Watched, "measure", lambda *_: 100.0)
    written(run, 2, seed=2)
    assert not guard.look(2)
    assert guard.best() == 2  # of locality the newest
    assert guard.verdict() == "guard: nothing is lost; published is the teacher of step 2; not measured: step 1"
    monkeypatch.setattr(Watched, "measure", lambda *_: None + 1)  # type: ignore[operator]
    with pytest.raises(TypeError):  # a mistake of ours is not hidden
        guard.look(2)


def test_a_teacher_that_is_not_finite_has_lost(classes: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    guard = Guard(run, [Watched("folder", str(classes), "knn")], allowed=1000.0, first=0, device=CPU)
    written(run, 0, seed=0)
    file = run.checkpoint(0) / "model.safetensors"
    state = {name: value + torch.nan if name == "norm.weight" else value for name, value in load_file(file).items()}
    run.checkpoint(1).mkdir()
    save_file(state, run.checkpoint(1) / file.name, header(ARCHITECTURE, vit().pixels, step=1))
    assert guard.look(1)
    assert guard.best() == 0
    assert "fell from 100.0 to nothing, for it is not finite" in guard.verdict()


def test_of_classes_the_best_is_published_which_need_not_be_the_newest(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for how, best in (("knn", 1), ("locality", 2)):
        numbers = iter((50.0, 52.0, 51.0))
        monkeypatch.setattr(Watched, "measure", lambda *_, numbers=numbers: next(numbers))
        run = RunFolder(tmp_path / how)
        guard = Guard(run, [Watched("folder", str(classes), how)], allowed=2.0, first=0, device=CPU)
        for step in (0, 1, 2):
            written(run, step, seed=step)
            assert not guard.look(step)
        assert guard.best() == best


def test_heads_learn_on_while_their_loss_falls_and_a_start_finds_how_long(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Stopped before it was noted that they go on, and stopped as they do: the same weights as without."""
    monkeypatch.setattr(fitting, "change", lambda losses: -0.5 if len(losses) < 4 else 0.0)
    monkeypatch.setattr(Watched, "measure", lambda *_: 50.0)

    def begin(name: str) -> RunFolder:
        rate = {"optim.lr.warmup": 0}
        out = tmp_path / name
        adapt.adapt(from_=str(model), data=str(photos), out=out, heads=2, steps=1, settings={**FEW, **rate})
        return RunFolder(out)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    whole = begin("whole")
    assert whole.steps() == [0, 1, 2, 3, 4, 5]
    said = capfd.readouterr().err
    assert "their loss still falls (50.0% in the last tenth of their steps, to " in said
    assert "); 2 steps more" in said
    assert "has settled" in said
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "write_text", stop)
        with pytest.raises(KeyboardInterrupt):
            begin("broken")
    assert RunFolder(tmp_path / "broken").steps() == [0, 1, 2]
    with monkeypatch.context() as patch:
        patch.setattr(Guard, "look", lambda _, step: stop() if step == 3 else False)
        with pytest.raises(KeyboardInterrupt):
            begin("broken")
    assert begin("broken").steps() == whole.steps()
    assert_same(whole.path, tmp_path / "broken")


def test_heads_are_judged_by_the_log_of_a_short_run_and_their_portions_warn_of_nothing(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Watched, "measure", lambda *_: 50.0)
    few = FEW | {"checkpoint_every": 100, "health.every": 1000}
    adapt.adapt(from_=str(model), data=str(photos), out=tmp_path / "run", heads=20, steps=1, settings=few)
    said = capfd.readouterr().err
    assert RunFolder(tmp_path / "run").steps()[:3] == [0, 20, 40]  # in the first 20 it falls by 2 %
    assert "their loss still falls" in said
    assert "too few lines" not in said
    assert "optim.lr takes" not in said


def test_heads_that_never_settle_end_with_four_times_their_steps(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fitting, "change", lambda _: -0.5)
    monkeypatch.setattr(Watched, "measure", lambda *_: 50.0)
    adapt.adapt(from_=str(model), data=str(photos), out=tmp_path / "run", heads=1, steps=1, settings=FEW)
    assert RunFolder(tmp_path / "run").steps() == [0, 1, 2, 3, 4, 5]
    assert "give more --heads" in capfd.readouterr().err


def test_what_would_do_nothing_or_fail_at_the_end_is_refused_before_the_work(
    photos: Path, model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"leave --eval\.data out"):
        adapt.adapt(from_=str(model), data=str(photos), out=run, settings={**FEW, "eval.data": "photos"})
    with pytest.raises(UserError, match="nowhere"):
        adapt.adapt(from_=str(model), data=str(photos), out=run, scratch=tmp_path / "nowhere", settings=FEW)
    assert not run.exists()


def test_options_are_called_what_they_are_called(photos: Path, model: Path, tmp_path: Path) -> None:
    for name in ("heads", "steps"):
        with pytest.raises(UserError, match=f"^--{name} must be at least 1, got 0$"):
            adapt.adapt(from_=str(model), data=str(photos), out=tmp_path / "run", **{name: 0})  # type: ignore[arg-type]


def test_images_that_cannot_be_measured_are_said_with_the_first_reason(classes: Path) -> None:
    with pytest.raises(UserError, match=r"fewer than two of them can be read \(red/0.png: 4 channels wanted"):
        Watched("folder", str(classes), "locality").measure(VisionTransformer(replace(ARCHITECTURE, channels=4)))


def test_an_original_that_cannot_be_measured_is_said_before_the_first_step(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> float:
        raise UserError("fewer than two of them can be read")

    monkeypatch.setattr(Watched, "measure", fails)
    with pytest.raises(UserError, match="fewer than two"):
        adapt.adapt(from_=str(model), data=str(photos), out=tmp_path / "run", heads=1, steps=1, settings=FEW)
    assert not RunFolder(tmp_path / "run").steps()


@pytest.mark.slow
def test_an_adaptation_ends_with_a_table_and_does_not_begin_again(
    classes: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = {
        "from_": str(model),
        "data": str(classes),
        "retain": str(classes),
        "scratch": model,
        "out": tmp_path / "run",
    }
    for _ in range(2):
        adapt.adapt(**words, heads=2, steps=2, allowed=100, settings=FEW)  # type: ignore[arg-type]
        run = RunFolder(tmp_path / "run")
        assert run.steps() == [0, 1, 2, 3, 4]
        assert [line["step"] for line in read_jsonl(run.path / "guard.jsonl")] == [0, 3, 4]
        rows = json.loads((run.path / "adapt.json").read_text())["rows"]
        assert list(rows) == ["original", "adapted", "from scratch"]
        assert rows["original"]["folder"] == rows["original"]["retained"] == rows["from scratch"]["folder"]
        assert (run.path / "report.html").exists()
    said = capfd.readouterr()
    assert "original" in said.out
    assert "heads: " in said.err
    assert "all 4 steps are done" in said.err


def test_a_run_that_has_lost_too_much_ends_and_goes_back(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    numbers = iter((50.0, 51.0, 47.0))  # of the original, and of steps 2 and 3
    monkeypatch.setattr(Watched, "measure", lambda *_: next(numbers))
    run = RunFolder(tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["/bin/dinokit", "adapt", "--from", "a model", "--heads", "1"])
    for _ in range(2):  # the second time nothing is trained or measured
        adapt.adapt(from_=str(model), data=str(photos), out=run.path, heads=1, steps=9, settings=FEW)
        assert run.steps() == [0, 1, 2, 3]
        assert (run.path / "model.safetensors").read_bytes() == (run.checkpoint(2) / "model.safetensors").read_bytes()
    said = capfd.readouterr().err
    assert "fell from 50.0 to 47.0, by more than 2: stopped at step 3; published is the teacher of step 2" in said
    before = {path.name: path.read_bytes() for path in run.path.glob("*.safetensors")}
    begun = "dinokit adapt --from 'a model' --heads 1"  # another command would publish the teacher that was refused
    with pytest.raises(UserError, match=re.escape(f"go on as it began ({begun}), or choose another --out")):
        adapt.adapt(from_=str(model), data=str(photos), out=run.path, heads=2, steps=9, settings=FEW)
    with pytest.raises(UserError, match=f"is guarded, .*; go on with {begun}, or choose another --out"):
        pretrain(str(run.config), out=run.path)
    assert {path.name: path.read_bytes() for path in run.path.glob("*.safetensors")} == before
    model.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=f"was begun with {model}, .* no longer there; put it, or a link to it, back"):
        adapt.adapt(from_=str(model), data=str(photos), out=run.path, heads=1, steps=9, settings=FEW)


def lost_on_ranks(settings: TrainConfig, run: Path) -> None:
    """Adapt on a rank, twice; one that measures at another time than expected has no number for it."""
    numbers = iter((50.0, 47.0))  # of the original, and of step 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watched, "measure", lambda *_: next(numbers))
        for _ in range(2):
            few = {**FEW, "objectives.koleo.group": 2}
            source = str(settings.experiment.data.source)
            adapt.adapt(from_=str(run.parent / "weights.safetensors"), data=source, out=run, heads=1, settings=few)


@pytest.mark.slow
def test_a_loss_that_rank_0_measures_ends_all_ranks(photos: Path, model: Path, tmp_path: Path) -> None:
    shutil.copyfile(model, tmp_path / "weights.safetensors")
    train_on_ranks(config(photos), tmp_path / "run", train=lost_on_ranks)  # one that went on would wait for ever
    run = RunFolder(tmp_path / "run")
    assert run.steps() == [0, 1, 2]
    assert [line["folder"] for line in read_jsonl(run.path / "guard.jsonl")] == [50.0, 47.0]
    assert (run.path / "model.safetensors").read_bytes() == (run.checkpoint(0) / "model.safetensors").read_bytes()


def test_a_run_is_begun_with_at_a_step_and_again_at_that_one(photos: Path, tmp_path: Path) -> None:

    first, run = tmp_path / "first", RunFolder(tmp_path / "run")
    engine.pretrain(config(photos, steps=2), first)
    assert adapt._begun_with(str(first), run) == str(first / "checkpoints" / "2")
    assert adapt._begun_with(str(first / "model.safetensors"), run) == str(first / "model.safetensors")
    shutil.copyfile(first / "checkpoints" / "0" / "model.safetensors", first / "model.safetensors")
    assert adapt._begun_with(str(first), run) == str(first / "checkpoints" / "0")  # what it has published
