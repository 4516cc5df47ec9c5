"""The command line: quick help, one line and exit code 2 for every mistake, and nothing overwritten."""

import inspect
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import tifffile
import yaml
from PIL import Image

import dinokit
from dinokit import cli
from dinokit.commands import outline, running
from dinokit.commands.curate import STEPS
from dinokit.commands.tables import shown
from dinokit.evaluation import base as evaluations
from dinokit.training.config import TrainConfig
from tests.images.hostile import deep_png

TINY = [
    *("--steps", "2", "--data.batch_size", "4", "--data.views.local_count", "1", "--checkpoint_every", "1"),
    *("--workers", "0", "--tensorboard", "false", "--device", "cpu", "--processes", "1"),
]
TWO_PROCESSES = [*TINY[:-1], "2"]


def two_classes(root: Path) -> Path:
    """Write two classes of six pictures."""
    draw = numpy.random.default_rng(0)
    for index in range(12):
        folder = root / ("dark" if index % 2 else "bright")
        folder.mkdir(parents=True, exist_ok=True)
        low = 0 if index % 2 else 128
        Image.fromarray(draw.integers(low, low + 128, (30, 30, 3), dtype=numpy.uint8)).save(folder / f"{index}.png")
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two classes of six pictures."""
    return two_classes(tmp_path / "photos")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Such a folder, and the run of two processes that has learnt from it, which no test changes."""
    root = tmp_path_factory.mktemp("trained")
    data, out = two_classes(root / "photos"), root / "run"
    assert run("pretrain", "demo", "--data", data, "--out", out, *TWO_PROCESSES) == 0
    return data, out


def run(*words: object) -> int:
    return cli.run([str(word) for word in words])


def mistake(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command that must fail with exit code 2 and one line; return the line."""
    capsys.readouterr()
    assert run(*words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    return lines[0]


def test_closed_standard_files_change_no_exit_code() -> None:
    for words, code in (("--version", 0), ("data look photos", 2)):
        done = subprocess.run(["sh", "-c", f'"$0" -m dinokit {words} <&- >&- 2>&-', sys.executable], check=False)
        assert done.returncode == code


def test_help_of_pretrain_lists_the_settings_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pretrain", "dinov3-vits16", "--help") == 0
    text = capsys.readouterr().out
    assert "--optim.layer_decay " in text
    assert "factor on the learning rate per block" in text
    settings = text.split("settings of 'dinov3-vits16'")[1]
    assert "--no-" not in settings
    assert "[INT" not in settings


def test_help_of_an_evaluation_lists_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "knn", "--help") == 0
    text = capsys.readouterr().out.split("settings of 'knn'")[1]
    assert "--k " in text
    assert "[10, 20, 100, 200]" in " ".join(text.split())
    assert "--data" not in text


def test_help_of_predict_lists_the_settings_of_what_it_learns_from(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for words in ((), ("--train-on", "few"), ("--train_masks=few",)):
        assert run("predict", *words, "--help") == 0
        shown[words[:1]] = " ".join(capsys.readouterr().out.split())
    assert "all settings of" not in shown[()]
    assert "--queries " in shown[("--train-on",)].split("all settings of 'detection'")[1]
    assert "(default: few)" in shown[("--train-on",)]
    assert "--c " in shown[("--train_masks=few",)].split("all settings of 'foreground'")[1]
    assert run("help", "predict", "--train-on") == 0
    assert "all settings of 'detection'" in capsys.readouterr().out


HELPS = [["pretrain", name] for name in ("demo", "dinov3-vitl16")] + [
    ["evaluate", name] for name in evaluations.names()
]
HELPS += [["curate", step] for step in STEPS] + [["evaluate", "suite"]]
HELPS += [["predict", "--train-masks"], ["predict", "--train-on"]]


@pytest.mark.parametrize("words", [*HELPS, *([name] for name in outline.commands())], ids="-".join)
def test_every_help_is_whole_and_points_to_nothing_that_is_not_there(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "--help") == 0
    text = capsys.readouterr().out
    assert f"dinokit {words[0]}" in text
    assert not re.search(r"\w\.py\b|see above|see below|\bNone\b", text)
    for paragraph in text.split("\n  --"):
        assert paragraph.count("(") == paragraph.count(")"), paragraph
        assert len(re.sub("(at least|between) .*|[(].*", "", paragraph.partition(" ")[2], flags=re.DOTALL).strip()) > 3
    options, *settings = (re.findall(r"\n  (--[\w.-]+) ", each) for each in re.split("that matter|all settings", text))
    for names in (options, *settings):
        assert len(set(names)) == len(names)
    assert not set(options) & {name for names in settings for name in names}


def test_help_of_pretrain_opens_with_the_settings_that_matter(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("help", "pretrain", "demo") == 0
    first = capsys.readouterr().out.split("settings that matter first")[1].split("all settings")[0]
    assert re.findall(r"--[a-z_.]+", first)[:3] == ["--steps", "--data.batch_size", "--data.accumulate"]


def test_python_takes_settings_as_keywords() -> None:
    assert dinokit.plan("demo", steps=400, tflops=1.0)["pretrain"].steps == 400
    assert "tyro" not in str(inspect.signature(dinokit.evaluate))


def test_models_lists_architectures_and_recipes_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"dinov3_vits16", "dinov3_convnext_tiny", "dino_resnet50"} <= set(listed["architectures"])
    assert "demo" in listed["recipes"]
    assert run("models") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["dinov3_convnext_tiny", "convnext", "32", "768", "18", "-", "-", "-"] in rows
    assert ["dino_vits8", "vit", "8", "384", "12", "6", "0", "offset"] in rows


def test_a_run_from_folder_to_numbers(trained: tuple[Path, Path], tmp_path: Path) -> None:
    photos, out = trained
    assert (out / "report.html").exists()
    assert (
        run("evaluate", "knn", "--model", out, "--data", photos, "--out", tmp_path / "knn.json", "--k", "[1, 3]") == 0
    )
    results = json.loads((tmp_path / "knn.json").read_text())["results"]
    assert set(results) == {str(out), "random-init", "raw-pixels"}
    assert all({"top1@1", "top1@3"} <= result.keys() for result in results.values())
    assert run("embed", "--model", out, "--data", photos, "--out", tmp_path / "embedded") == 0
    assert len(numpy.load(tmp_path / "embedded" / "part-00000.npy")) == 12
    assert run("report", out) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretran", "demo"], "unknown command 'pretran'; did you mean 'pretrain'"),
        (["pretrain", "dmo", "--out", "OUT"], "unknown recipe 'dmo'; did you mean 'demo'"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--optim.lr.peek", "1"], "did you mean 'optim.lr.peak"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--steps", "many"], "'steps'|steps': expected a whole"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--steps"], "--steps has no value"),
        (
            ["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--data.views.global_size", "30"],
            "not a multiple of the patch size",
        ),
        (["pretrain", "demo", "--out", "OUT"], "no images are given"),
        (["pretrain", "demo", "more", "--out", "OUT"], "one word too many: 'more'"),
        (["pretrain", "demo", "--out", "OUT", "--out=OUT"], "--out is given twice"),
        (["pretrain", "demo", "--out", "OUT", "--steps", "1", "--steps", "2"], "--steps is given twice"),
        (["pretrain", "demo", "--data", "DATA", "--out", ""], "--out is empty"),
        (["pretrain", "demo", "--out", "--data", "DATA"], "--out has no value"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--experiment", "x"], "expected a group of settings"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--optim", "[1]"], "optim': expected a group"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--optim.lr", "1e-3"], "optim.lr': expected a group"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--seed", "9" * 5000], "seed"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--seed", "9" * 400], "expected a whole number"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--data.views.flip", "1" * 400], "finite number"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--objectives", "[" * 3000], "--objectives: '[["),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--objectives", "x"], "expected a group"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--stages", "x"], "expected a group"),
        (["pretrain", "small-cpu", "--data", "DATA", "--out", "OUT", "--stages.anchor", "x"], "expected a group"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--nodes", "1e3"], "--nodes: expected a whole number"),
        (["plan", "demo", "--experiment", "x"], "expected a group of settings, got 'x'"),
        (["plan", "demo", "--tflops", "nan"], "--tflops: expected a finite number, got 'nan'"),
        (["evaluate", "knn", "--model", "M", "--data", "DATA", "--baselines", "false"], "or --no-baselines"),
        (["pretrain", "demo", "--data", "DATA/nowhere", "--out", "OUT"], "nowhere"),
        (["pretrain", "demo", "--data", "demo:fashoin", "--out", "OUT"], "did you mean 'demo:fashion'"),
        (["pretrain", "demo", "--data", "DATA"], "--out"),
        (["evaluate", "knm", "--model", "DATA", "--data", "DATA"], "unknown evaluation 'knm'; did you mean 'knn'"),
        (["evaluate", "knn", "--model", "nowhere", "--data", "DATA"], "no model at nowhere"),
        (["evaluate", "knn", "--model", "DATA", "--data", "DATA"], "holds no model.safetensors"),
        (["embed", "--model", "nowhere", "--data", "DATA", "--out", "OUT"], "no model at nowhere"),
        (["embed", "--modle", "x", "--data", "DATA", "--out", "OUT"], "--model"),
        (["report", "DATA"], "DATA|photos"),
        (["evaluate", "nope", "--help"], "known are: "),
        (["data", "chek", "DATA"], "check"),
        (["data", "check", "DATA/nowhere"], "nowhere"),
        (["data", "check", "DATA", "--limit", "0"], "at least 1"),
        (["data", "check", "DATA", "--out", "DATA"], "--out takes a file"),
        (["data", "show", "DATA", "--out", "OUT"], "expected --out to be a picture such as"),
        (["data", "stats", "DATA", "--channels", "7"], "7 channels wanted, the file holds RGB"),
        (["predict", "--data", "DATA", "--out", "OUT"], "FOLDER and --train-on FOLDER, got neither"),
        (["predict", "--head", "DATA", "--data", "DATA", "--out", "OUT"], "holds no head"),
        (["predict", "--train-masks", "DATA", "--data", "DATA", "--out", "OUT"], "--train-masks needs --model"),
        (["predict", "--head", "DATA", "--data", "DATA", "--out", "OUT", "--siez", "1"], "unknown option '--siez'"),
        (["predict", "--train-on", "DATA", "--data", "DATA", "--out", "OUT"], "--train-on needs --model"),
        (["predict", "--train-on", "DATA", "--model", "x", "--data", "DATA", "--out", "OUT"], "expected boxes in"),
        (["predict", "--train-on", "A", "--head", "B", "--data", "DATA", "--out", "OUT"], "got --head and --train-on"),
        (["models", "--jsn"], "did you mean '--json'"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--optim.lr.peak", ".nan"], "expected a finite number"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--seed", "2024-99-99"], "expected a whole number"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--objectives", "{1: {}}"], "unknown objective '1'"),
        (["pretrain", "demo", "--data", "DATA", "--out", "OUT", "--device", "meta"], "device 'meta' is not usable"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    words: list[str], message: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.replace("DATA", str(photos)).replace("OUT", str(tmp_path / "out")) for word in words]
    line = mistake(capsys, *filled)
    assert any(part in line for part in message.split("|")), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [("pretrain", "dmo", "--help"), ("help", "plan", "dmo")])
def test_help_about_what_is_not_there_says_that_alone(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "unknown recipe 'dmo'; did you mean 'demo'" in said.err


def test_a_source_is_looked_at_before_training(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "dark" / "broken.jpg").write_bytes(b"")
    assert run("data", "check", photos, "--out", tmp_path / "check.json") == 0
    said = capsys.readouterr().out
    assert "30 to 30 px" in said
    assert "dark/broken.jpg: empty file (0 bytes)" in said
    found = json.loads((tmp_path / "check.json").read_text())
    assert (found["source"], found["images"], found["readable"], found["formats"]) == (str(photos), 13, 12, {"PNG": 12})
    assert found["unreadable"] == [{"key": "dark/broken.jpg", "reason": "empty file (0 bytes)"}]
    assert run("data", "stats", photos, "--channels", 1, "--limit", 13) == 0
    assert "12 images, 1 bad ones left out" in capsys.readouterr().out
    assert run("data", "show", photos, "--limit", 3, "--out", tmp_path / "sheet.png") == 0
    with Image.open(tmp_path / "sheet.png") as written:
        assert numpy.array_equal(written, dinokit.data("show", photos, limit=3))
    assert dinokit.data("check", photos).duplicates == 0


def test_four_channels_from_files_to_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The settings that `data stats` prints are taken as they are; 16-bit and float files, beyond white too."""
    draw, folder = numpy.random.default_rng(0), tmp_path / "bands"
    folder.mkdir()
    for index in range(4):
        numpy.save(folder / f"{index}.npy", draw.normal(300, 20, (4, 30, 26)).astype(numpy.float32))
        deep = draw.integers(0, 65536, (30, 26, 4), dtype=numpy.uint16)
        tifffile.imwrite(folder / f"{index}.tif", deep, photometric="minisblack", planarconfig="contig")
        (folder / f"{index}.png").write_bytes(deep_png(draw.integers(0, 65536, (26, 30, 4), dtype=numpy.uint16)))
    assert run("data", "stats", folder, "--channels", 4) == 0
    settings = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert settings[::2] == ["--data.pixels.mean", "--data.pixels.std"]
    assert len(json.loads(settings[1])) == 4
    out = tmp_path / "run"
    words = ["--data", folder, "--out", out, *TINY, "--backbone.channels", 4]
    assert run("pretrain", "demo", *words, *settings) == 0
    assert not (out / "bad_images.jsonl").exists()
    assert (out / "report.html").exists()
    assert run("embed", "--model", out, "--data", folder, "--out", tmp_path / "embedded") == 0
    assert numpy.isfinite(numpy.load(tmp_path / "embedded" / "part-00000.npy")).all()


def test_a_run_that_is_not_measured_says_why(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run("pretrain", "demo", "--data", photos, "--out", out, *TINY, "--eval.tasks", "null") == 0
    said = capsys.readouterr().err
    assert "not measured (runtime.eval.tasks is empty)" in said
    assert "no labels" not in said


def test_results_replace_an_older_file_only_when_they_are_there(
    photos: Path, tmp_path: Path, make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model, old = make_run(str(photos)) / "checkpoints" / "0", tmp_path / "old.json"
    old.write_text('{"years": "of work"}')
    for data, out, message in (("nowhere", old, "nowhere"), (photos, photos, "--out takes a file")):
        assert message in mistake(capsys, "evaluate", "knn", "--model", model, "--data", data, "--out", out)
    mistake(capsys, "evaluate", "knn", "--model", model, "--data", photos, "--out", "/proc/nowhere/x.json")
    assert old.read_text() == '{"years": "of work"}'


def test_a_name_of_two_lines_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "two\nlines.png").write_bytes(b"")
    assert run(["data", "stats", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_empty_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "no image" in mistake(capsys, "pretrain", "demo", "--data", tmp_path / "empty", "--out", tmp_path / "out")


def test_an_unwritable_output_is_one_line(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = mistake(capsys, "pretrain", "demo", "--data", photos, "--out", "/proc/run", *TINY)
    assert "cannot write to /proc/run" in line


@pytest.mark.slow  # it trains twice
def test_a_program_gets_the_run_or_ends_where_it_is_stopped(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What follows in a program or a notebook would work with an unfinished model."""
    settings = dict(zip([each.removeprefix("--") for each in TINY[::2]], map(yaml.safe_load, TINY[1::2]), strict=True))
    with monkeypatch.context() as patch:
        patch.setattr(running, "keep_best", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match="stopped at step 1 of 2; saved is step 1"):
            dinokit.pretrain("demo", data=photos, out=tmp_path / "run", settings=settings)
        assert run("pretrain", "demo", "--data", photos, "--out", tmp_path / "other", *TINY) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("stopped at step 1 of 2; saved is step 1")
    assert dinokit.pretrain("demo", data=photos, out=tmp_path / "run", settings=settings) == tmp_path / "run"


def test_a_changed_experiment_is_one_line_and_changes_nothing(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = trained
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    line = mistake(capsys, "pretrain", "demo", "--data", photos, "--out", out, *TINY, "--seed", "1")
    assert "seed 0 -> 1" in line
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("value", "said"), [(83.456, "83.46"), (0.0, "0.00"), (3e-4, "0.0003"), (-0.0054, "-0.0054")])
def test_a_table_does_not_show_a_small_number_as_none(value: float, said: str) -> None:
    assert shown(value) == said


def test_an_anchor_is_found_from_another_folder_and_words_are_no_paths(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[TrainConfig] = []
    monkeypatch.setattr(running, "train_and_report", lambda config, *_: configs.append(config) or 0)
    monkeypatch.chdir(tmp_path)
    for name in ("old", "auto", "3"):
        Path(name).mkdir()
        Path(name, "model.safetensors").touch()
    words = ["pretrain", "small-cpu", "--data", str(photos), "--out", "run"]
    for source in ("old", "auto", "3"):
        assert cli.run([*words, "--stages.anchor.changes.anchor.source", source]) == 0
    anchors = [config.experiment.all_stages[1].experiment.anchor for config in configs]
    assert [each.source for each in anchors if each is not None] == [str(tmp_path / "old"), "auto", "3"]


def test_settings_of_a_stage_alone_are_its_own(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[TrainConfig] = []
    monkeypatch.setattr(running, "train_and_report", lambda config, *_: configs.append(config) or 0)
    (tmp_path / "x").touch()
    words = ["pretrain", "small-cpu", "--data", str(photos), "--out", str(tmp_path / "run"), "--stage", "anchor"]
    words += ["--from", str(tmp_path / "x")]
    changes = [
        "--stages.anchor.changes.objectives.gram.weight",
        "7",
        "--optim.lr.decay",
        "5",
        "--start.begin",
        "teacher",
    ]
    assert cli.run([*words, "--steps", "9", *changes]) == 0
    experiment = configs[0].experiment
    assert (experiment.steps, experiment.optim.lr.decay, experiment.objectives["gram"].weight) == (9, 5, 7)
    assert experiment.start is not None
    assert experiment.start.begin == "teacher"


@pytest.mark.slow  # three starts, measured and reported
def test_a_run_is_continued_from_another_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the images are: here a manifest, relative to where the run began."""
    names = sorted(path.relative_to(tmp_path) for path in photos.rglob("*.png"))
    (tmp_path / "table.csv").write_text("path,label\n" + "".join(f"{name},{name.parent.name}\n" for name in names))
    monkeypatch.chdir(tmp_path)
    assert run("pretrain", "demo", "--data", "table.csv", "--out", "runs/one", *TINY) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("pretrain", tmp_path / "runs/one/config.yaml", "--out", tmp_path / "runs/one") == 0
    assert run("pretrain", tmp_path / "runs/one/config.yaml", "--out", "two", "--steps", "1") == 0
    monkeypatch.chdir(tmp_path)
    assert run("pretrain", "demo", "--data", "table.csv", "--out", "runs/one", *TINY) == 0
    assert "another experiment: data.source" in mistake(
        capsys, "pretrain", "demo", "--data", photos, "--out", "runs/one", *TINY
    )


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_too_little_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacking(_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_dispatch", lacking)
    assert cli.run(["pretrain"]) == 3
    assert "stopped: too little memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "names", "undo"),
    [
        (["i", "--", "-strange.jpg", "--odd"], ("-strange.jpg", "--odd"), None),
        (["--undo", "--", "-i", "-h"], ("-h",), True),
        (["i", "a.jpg", "--undo", "--", "-b.jpg", "--"], ("a.jpg", "-b.jpg", "--"), True),
        (["i", "a.jpg", "-b.jpg"], ("a.jpg", "-b.jpg"), None),
    ],
)
def test_after_two_dashes_all_are_words_whatever_they_begin_with(
    words: list[str], names: tuple[str, ...], undo: bool | None
) -> None:
    found = cli.arguments(outline.outline("search").search_remove, words)
    assert (found["names"], found.get("undo")) == (names, undo)
    assert str(found["index"]) == ("-i" if "-i" in words else "i")


def test_a_word_that_looks_like_an_option_is_told_where_it_may_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = mistake(capsys, "search", "remove", tmp_path, "-strange.jpg")
    assert "unknown option '-strange.jpg'" in said
    assert said.endswith("words that begin with - come last, after --")
    assert "no index" in mistake(capsys, "search", "remove", tmp_path, "--", "--help")
    assert "one word too many: '-x'" in mistake(capsys, "search", "near", tmp_path, "--", "-x")
    assert "after --" not in mistake(capsys, "search", "remove", tmp_path, "a.jpg", "--und")
