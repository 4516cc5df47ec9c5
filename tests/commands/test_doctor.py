"""`dinokit doctor`: what there is, and a step."""

import json
from importlib.metadata import version

import pytest

from dinokit.cli import run
from dinokit.commands import doctor


def test_what_there_is_is_said_and_a_step_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["versions"]["torch"] == version("torch")
    assert found["device"]["device"] == "cpu"
    assert found["extras"]["timm"] == {"timm": version("timm")}
    assert found["step"]["seconds"] > 0
    assert err == ""  # of the training nothing is said


def test_a_package_that_is_missing_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy>=1", 'nowhere-at-all>=2; extra == "timm"'])
    monkeypatch.setattr(doctor, "_step", lambda _: 1.0)
    assert run(["doctor", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert "timm       nowhere-at-all missing" in out
    assert "dinokit[timm" in err


def test_a_device_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--device", "nothing"]) == 2
    assert "expected auto, cpu, cuda or mps" in capsys.readouterr().err
