"""What a person sees of a training: in a terminal, a notebook, or neither."""

import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from dinokit.core import panel
from dinokit.core.panel import State


def test_the_panel_shows_how_far_how_fast_what_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(panel, "console", Console(file=screen, force_terminal=True, width=110))
    means, pace = {"loss": 8.816, "loss/ibot": 2.596}, "384.4 img/s"
    with panel.shown("birds", steps=60, start=0, plain=pytest.fail) as say:
        say(State(30, means, pace))
        say(State(45, means, pace, 75.0, ("collapsing since step 12: do this", "yellow")))
    shown = screen.getvalue()
    last = shown[shown.rindex("birds") :]
    for part in (
        "45/60",
        "ibot",
        "8.816",
        "2.596",
        "loss 8.816 · 384.4 img/s",
        "1:15 left",
        "collapsing since step 12: do this",
    ):
        assert part in last
    assert "30/60" not in last


@pytest.mark.parametrize("width", [80, 150])
def test_students_stand_below_each_other_and_no_number_is_cut(width: int) -> None:
    students = ("vit_micro", "dinov3_convnext_tiny", "vits16")
    terms = ("dino_global", "dino_local", "ibot", "koleo")
    means = {f"loss/{student}/{term}": 2.596 for student in students for term in terms}
    means |= {"loss": 31.152}
    screen = io.StringIO()
    state = State(4512, means, "384.4 img/s · 17% data wait", 3601.0)
    drawn = panel.panel("birds", state, steps=10_000, passed=2500.0)
    Console(file=screen, width=width).print(drawn)
    lines = screen.getvalue().splitlines()
    assert len(lines) == 8  # frame, bar, names, three students, speed, frame
    assert "4,512/10,000 · 41:40 passed · 1:00:01 left" in lines[1]
    assert lines[2].split()[1:6] == ["student", *terms]
    for line, student in zip(lines[3:6], students, strict=True):
        assert line.split()[1:6] == [student, *["2.596"] * 4]
    assert "loss 31.152 · 384.4 img/s · 17% data wait" in lines[6]


def test_where_there_is_no_place_for_a_panel_lines_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, said = io.StringIO(), list[State]()
    monkeypatch.setattr(panel, "console", Console(file=screen))
    with panel.shown("birds", steps=60, start=0, plain=said.append) as say:
        say(State(30, {"loss": 1.0}))
    assert [state.step for state in said] == [30]
    assert screen.getvalue() == ""


def test_a_notebook_keeps_one_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[object]()

    def display(one: object, *, display_id: bool) -> SimpleNamespace:
        assert display_id
        drawn.append(one)
        return SimpleNamespace(update=drawn.append)

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(panel, "console", Console(force_jupyter=True))
    with panel.shown("birds", steps=60, start=0, plain=pytest.fail) as say:
        for step in (1, 2, 60):
            say(State(step, {"loss": 1.0}))
    assert len(drawn) == 3  # at the start, the first step, not the next at once, the last
