"""What the training of heads tells."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from dinokit.core import messages, panel
from dinokit.core.files import read_jsonl
from dinokit.dense.curve import CURVE, RECENT, Story


def told(folder: Path | None, *, steps: int, start: int = 0, stop: int | None = None, heads: int = 1) -> None:
    """Tell of a training whose loss is that of its step."""
    rates = [0.1 * (turn + 1) for turn in range(heads)]
    with Story(rates, steps=steps, start=start, folder=folder).shown() as story:
        for step in range(start + 1, (stop or steps) + 1):
            recent = [[{"loss": float(each)}] * heads for each in range(1, step + 1)][-RECENT:]
            story.add(step, recent, share=1 - step / steps)


def lines(folder: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read_jsonl(folder / CURVE)]


def test_a_line_is_the_mean_since_the_one_before(tmp_path: Path) -> None:
    told(tmp_path, steps=605)
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [*range(2, 605, 2), 605]
    assert found[0] == {"step": 2, "loss": 1.5, "lr": pytest.approx(0.1 * (1 - 2 / 605), rel=1e-5)}
    assert found[-1]["loss"] == 605


def test_after_a_kill_the_curve_is_that_of_a_whole_training(tmp_path: Path) -> None:
    told(tmp_path / "whole", steps=605)
    told(tmp_path / "parts", steps=605, stop=457)
    told(tmp_path / "parts", steps=605, start=450)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    told(tmp_path / "whole", steps=605)  # from the start again, for want of a state
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_each_of_several_heads_has_a_curve(tmp_path: Path) -> None:
    told(tmp_path, steps=2, heads=2)
    assert lines(tmp_path)[0] == pytest.approx(
        {"step": 1, "loss": 1, "loss/lr 0.1": 1, "loss/lr 0.2": 1, "lr/lr 0.1": 0.05, "lr/lr 0.2": 0.1}
    )


def test_terms_of_the_loss_are_told_with_it(tmp_path: Path) -> None:
    with Story([0.1], steps=1, start=0, folder=tmp_path).shown() as story:
        story.add(1, [[{"loss": 3.0, "class": 1.0, "boxes": 2.0}]], share=1.0)
    assert lines(tmp_path) == [{"step": 1, "loss": 3, "loss/class": 1, "loss/boxes": 2, "lr": 0.1}]


def test_without_a_panel_every_tenth_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    told(None, steps=20, heads=2)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "step 2 of 20 · loss 1.5000, 1.5000"
    assert len(said) == 10


def test_a_terminal_shows_the_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    for module in (panel, messages):
        monkeypatch.setattr(module, "console", Console(file=screen, force_terminal=True, width=100))
    told(tmp_path / "birds", steps=1000, heads=2)
    shown = screen.getvalue()
    last = shown[shown.rindex("birds") :]
    assert "1,000/1,000" in last
    assert "loss 950.500 · lr 0% of each · " in last
    assert "s a step" in last
    assert "step 100 of" not in shown
