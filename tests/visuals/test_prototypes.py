from collections.abc import Callable
from pathlib import Path

import yaml

from dinokit.visuals.chart import NO_COURSE
from dinokit.visuals.prototypes import heads, prototypes
from dinokit.visuals.record import read_record

MakeRun = Callable[..., Path]


def looks(head: str) -> tuple[dict[str, object], ...]:
    return tuple(
        {"step": step, f"health/{head}/used": used, f"health/{head}/information": used / 2, f"health/{head}/top": 0.1}
        for step, used in ((1, 0.01), (9, 0.87))
    )


def test_each_head_has_a_bar_of_what_lives_and_a_chart(make_run: MakeRun) -> None:
    run = make_run("", lines=looks("dino"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["experiment"]["objectives"] = {"dino": {"head": {"prototypes": 1024}}, "ibot": None}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    html = prototypes(read_record(run), NO_COURSE)
    assert "width:87.00%" in html
    assert "Prototypes of dino, 1\N{NARROW NO-BREAK SPACE}024" in html
    assert html.count("<polyline") == 3  # what is not logged has no curve
    assert "in use <b>87.0 %</b>" in html


def test_heads_of_students_are_told_apart(make_run: MakeRun) -> None:
    record = read_record(
        make_run("", lines=tuple(a | b for a, b in zip(looks("small/dino"), looks("tiny/dino"), strict=True)))
    )
    assert heads(record) == ["small/dino", "tiny/dino"]


def test_a_run_without_prototypes_has_no_such_part(make_run: MakeRun) -> None:
    assert prototypes(read_record(make_run("", lines=({"step": 1, "loss": 1.0},))), NO_COURSE) == ""
