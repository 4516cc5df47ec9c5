"""What a person at a terminal sees."""

import io

import pytest
from rich.console import Console

from dinokit.health.verdict import Verdict
from dinokit.run import panel


def test_the_panel_shows_how_far_how_fast_what_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(panel, "console", Console(file=screen, force_terminal=True, width=110))
    means = {"loss": 8.816, "loss/ibot": 2.596, "images_per_second": 384.4, "data_wait": 0.17}
    with panel.live("birds", steps=60, start=0) as say:
        say(30, means, None)
        say(45, means, Verdict(word="collapsing", line="collapsing since step 12: do this"))
    shown = screen.getvalue()
    last = shown[shown.rindex("birds") :]
    for part in ("45/60", "ibot", "8.816", "2.596", "384.4 img/s · 17% data wait", "collapsing since step 12: do this"):
        assert part in last
    assert "30/60" not in last
