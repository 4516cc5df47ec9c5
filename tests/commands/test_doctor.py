"""`dinokit doctor`: what there is, and a step."""

import json
from importlib.metadata import version

import pytest

from dinokit.cli import run
from dinokit.commands.doctor import packages


@pytest.mark.slow
def test_what_there_is_is_said_and_a_step_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["packages"]["torch"] == version("torch")
    assert found["device"]["device"] == "cpu"
    assert found["extras"]["timm"] == {"timm": version("timm")}
    assert found["step"]["seconds"] > 0
    assert err == ""  # of the training nothing is said


def test_a_step_that_fails_is_told_after_all_that_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    monkeypatch.setenv("DINOKIT_CACHE", "/dev/null/x")
    assert run(["doctor", "--device", "cpu"]) == 3
    out, err = capsys.readouterr()
    assert "/dev/null cannot be written: set DINOKIT_CACHE" in out
    assert f"torch {version('torch')}" in out
    assert err.startswith("stopped: a step of demo, in a folder of TMPDIR: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("need", "said"),
    [
        ("numpy>=1.0", version("numpy")),
        ("numpy>=1.0,<=999", version("numpy")),
        ("nowhere-at-all>=2", "not installed"),
        ("numpy>=999", f"{version('numpy')}, too old for >=999"),
    ],
)
def test_a_package_is_held_against_what_is_asked(need: str, said: str) -> None:
    name = need.partition(">")[0]
    assert packages([need, f'{need}; extra == "open-clip"']) == {"": {name: said}, "open-clip": {name: said}}


def test_what_only_developers_install_is_left_out() -> None:
    assert packages(['numpy>=1; extra == "dev"']) == {}


def test_a_device_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--device", "nothing"]) == 2
    assert "expected auto, cpu, cuda or mps" in capsys.readouterr().err
