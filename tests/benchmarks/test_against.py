"""benchmarks/against.py has a figure for every row: of interpreters that are pretended; one takes a step."""

import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# what the processes of a row say; they need SECONDS for what they do
SAYS = """#!/bin/sh
case "$*" in
*"import dinokit"*) echo "$0" ;;
*"import numba"*) exit NUMBA ;;
*--side* | *--stage* | *lightly_views*) echo ready; while read -r word; do echo SECONDS 0.5 100; done ;;
*stage_step*) echo "STEPS" ;;
*"--kind 1"*) echo 10 ;;
*none*) echo 9 ;;
*fsdp*) echo 5 ;;
*demo.py*) echo '{"teacher": 83.0, "seconds": 80.0}' ;;
*pretrain*) echo "step 1/10 · loss 2.5" >&2; sleep 60 ;;
esac
"""


@pytest.fixture
def against(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, imported from where it lies."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import against

    yield against
    ours = ("against", "rows", "sides", "jpegs")
    for name in [name for name in sys.modules if name.split(".")[0] in ours]:
        del sys.modules[name]


def interpreter(path: Path, *, seconds: float, steps: str = "[[100, false], [50, true]]", numba: int = 0) -> str:
    text = SAYS.replace("SECONDS", str(seconds)).replace("STEPS", steps).replace("NUMBA", str(numba))
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def table(against: ModuleType, folder: Path, *rows: str, numba: int = 0, peer: bool = True) -> dict[str, list[str]]:
    """Return row and what is measured -> old, today, ratio and what is wanted."""
    Image.new("RGB", (8, 6)).save(folder / "photo.jpg")
    builds = against.Builds(
        old=interpreter(folder / "old", seconds=2.0),
        today=interpreter(folder / "today", seconds=1.0, steps="[[100, false], [25, false], [25, true]]", numba=numba),
        lightly=interpreter(folder / "peer", seconds=4.0) if peer else None,
        rounds=1,
        threads=2,
        photos=folder,
        seeds=[0, 1],
    )
    lines = {row: [against.cells(line).split(" | ") for line in against.ROWS[row](builds)] for row in rows}
    return {f"{row}: {first}": rest for row in rows for first, *rest in lines[row]}


def test_every_row_has_figures(against: ModuleType, tmp_path: Path) -> None:
    found = table(against, tmp_path, *against.ROWS)
    assert {name.split(": ")[0] for name in found} == set(against.ROWS)
    assert all(float(old) > 0 and float(today) > 0 for old, today, *_ in found.values())
    assert found["vits memory: s"] == ["2", "1", "0.50", "at most 1.03"]
    assert found["training demo: steps x s"] == ["300", "150", "0.50", "at most 0.5"]
    assert found["fast vits: steps x s, of today's dinov3-vits16: 125"] == ["1.6", "1", "0.62", "at most 0.6"]
    assert found["training demo: score on demo:fashion, mean of seeds 0, 1"] == ["83", "83", "1.00", "no less"]
    assert found["features b 512 16: fp32: images/s, of timm's 16.00"] == ["0.5", "1", "2.00", "at least 1.15"]
    assert found["views: today, numba: images/s, of LightlyTrain's 8.0"] == ["2", "4", "2.00", "at least 2.5"]
    assert found["ranks: two ranks, sharded: of one process"] == ["0.5", "0.5", "1.00", "at least 0.85"]


def test_what_is_missing_is_said(against: ModuleType, tmp_path: Path) -> None:
    found = table(against, tmp_path, "views", numba=1, peer=False)
    assert found["views: today, torch: images/s, of LightlyTrain's"] == ["not measured: no --lightly", "", "", ""]
    assert found["views: today, numba: images/s"][0].startswith("not measured: today's build has no numba")


def test_rows_are_picked_by_patterns(against: ModuleType) -> None:
    assert against.chosen(["first line", "training *"]) == ["training demo", "training small-cpu", "first line"]
    with pytest.raises(SystemExit, match="no row is called 'views2'"):
        against.chosen(["views2"])


def test_a_side_that_ends_says_why(against: ModuleType) -> None:
    with pytest.raises(SystemExit, match="old has ended: no weights"):
        sys.modules["sides"].compared({"old": ["sh", "-c", "echo no weights >&2"]}, rounds=1)


def test_a_row_that_fails_says_why(against: ModuleType, tmp_path: Path) -> None:
    builds = against.Builds(old=interpreter(tmp_path / "old", seconds=1), today="false", rounds=1, threads=1)
    (line,) = against.measured("demo", builds)
    assert against.cells(line).startswith("- | not measured: today has ended")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "--rounds: 0 is not a whole number from 1 on"),
        (["--threads", "-3"], "--threads: -3 is not a whole number from 1 on"),
        (["--photos", "nowhere"], "--photos: nowhere is not a folder with files"),
        (["--lightly", "nowhere"], "--lightly: nowhere is not a program that can be run"),
    ],
)
def test_what_cannot_be_is_refused_first(
    against: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["against.py", sys.executable, *words])
    with pytest.raises(SystemExit, match="2"):
        against.main()
    assert message in capsys.readouterr().err


def test_what_is_compared_is_not_looked_for_where_the_command_is_given(against: ModuleType) -> None:
    assert "-P" in against.where(against.Builds(old="old", threads=1), "old")


def test_a_side_is_warm_when_it_needs_no_more_memory(against: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    sides, peaks, worked = sys.modules["sides"], iter([100.0, 140.0, 180.0, 180.5, 999.0]), list[int]()
    monkeypatch.setattr(sides, "peak_memory", lambda: next(peaks))
    monkeypatch.setattr("sys.stdin", [])
    sides.answer(lambda: worked.append(1))
    assert len(worked) == 4


@pytest.mark.slow  # a process of its own, which imports torch
def test_a_side_takes_steps(against: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS.parent))
    small = {"experiment.data.batch_size": 2, "experiment.objectives.koleo.group": None}
    step = sys.modules["rows.steps"].Step(recipe="small-cpu", stage=1, settings=small)
    command = step.side(against.Builds(old="none", threads=1), "today")
    found = sys.modules["sides"].compared({"today": command}, rounds=1)["today"]
    assert found.seconds > 0
    assert found.memory > 100
