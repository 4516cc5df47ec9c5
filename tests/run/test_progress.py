"""What a person at a terminal sees."""

import io

import pytest
from rich.console import Console

from dinokit.health.verdict import Verdict
from dinokit.run import progress


def test_the_panel_shows_how_far_how_fast_what_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=110))
    means = {"loss": 8.816, "loss/ibot": 2.596, "images_per_second": 384.4, "data_wait": 0.17}
    with progress.live("birds", steps=60, start=0) as say:
        say(progress.State(30, means))
        say(progress.State(45, means, Verdict("collapsing", "collapsing since step 12: do this"), 75.0))
    shown = screen.getvalue()
    last = shown[shown.rindex("birds") :]
    for part in (
        "45/60",
        "ibot",
        "8.816",
        "2.596",
        "384.4 img/s · 17% data wait",
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
    means |= {"loss": 31.152, "images_per_second": 384.4, "data_wait": 0.17}
    screen = io.StringIO()
    drawn = progress.panel("birds", progress.State(4512, means, left=3601.0), steps=10_000, passed=2500.0)
    Console(file=screen, width=width).print(drawn)
    lines = screen.getvalue().splitlines()
    assert len(lines) == 8  # frame, bar, names, three students, speed, frame
    assert "4,512/10,000 · 41:40 passed · 1:00:01 left" in lines[1]
    assert lines[2].split()[1:6] == ["student", *terms]
    for line, student in zip(lines[3:6], students, strict=True):
        assert line.split()[1:6] == [student, *["2.596"] * 4]
    assert "loss 31.152 · 384.4 img/s · 17% data wait" in lines[6]
