"""Verdicts as a function of the log: when a sign becomes a failure, since when it is one, and which is the cause."""

from typing import Any

import pytest

from dinokit.health.verdict import HEALTHY, STARTING, judged_from, verdict

# steps 10 to 300 of `demo` on demo:fashion, warm-up 100 steps
NAMES = (
    "lr", "loss", "grad_norm/backbone", "health/dino/target_entropy", "health/dino/target_entropy_share",
    "health/dino/marginal_entropy_share", "health/dino/information", "health/dino/top", "health/rank_cls",
    "health/rank_cls_share", "health/nearest", "health/agreement", "health/patch_norm", "health/cls_norm",
)  # fmt: skip
DEMO = {
    10: (0.0002, 10.6, 22, 6.13, 0.983, 0.291, 0.0102, 0.988, 5.15, 0.0537, 0.0395, 0.925, 1.82, 0.21),
    60: (0.0022, 8.64, 1.66, 5.65, 0.905, 0.982, 0.119, 0.156, 20.3, 0.211, 0.246, 0.616, 1.62, 0.134),
    110: (0.004, 8.02, 1.3, 5.17, 0.828, 1, 0.218, 0.125, 30.3, 0.316, 0.424, 0.766, 2.36, 0.289),
    170: (0.004, 7.63, 1.82, 4.87, 0.781, 1, 0.257, 0.102, 31, 0.323, 0.459, 0.813, 4.22, 0.727),
    230: (0.004, 7.41, 1.67, 4.67, 0.749, 1, 0.286, 0.082, 31.8, 0.331, 0.462, 0.839, 6.02, 1.24),
    300: (0.004, 7.1, 1.43, 4.48, 0.718, 1, 0.316, 0.0977, 32.9, 0.343, 0.506, 0.886, 8.04, 1.79),
}
ONE_PROTOTYPE = {"health/dino/top": 0.97, "health/dino/information": 1e-4, "health/dino/marginal_entropy_share": 0.01,
                 "health/dino/target_entropy": 0.02, "health/dino/target_entropy_share": 0.02 / 6.24}  # fmt: skip
CONSTANT = {"health/nearest": 0.0, "health/rank_cls": 1.0, "health/rank_cls_share": 1 / 96}

Lines = list[dict[str, Any]]


def demo() -> Lines:
    """A healthy run of 300 steps."""
    return [{"step": step, "health/not_finite": 0.0} | dict(zip(NAMES, row)) for step, row in DEMO.items()]


def later(count: int, *, first: int = 310) -> Lines:
    """More healthy lines."""
    return [demo()[-1] | {"step": first + 10 * index} for index in range(count)]


def test_a_healthy_run_is_never_alarming() -> None:
    lines = demo()
    words = [verdict(lines[:count]).word for count in range(1, len(lines) + 1)]
    assert words == [STARTING] * 4 + [HEALTHY] * 2  # judged from 1.5 * 110 + 50 steps on
    assert verdict(lines).line == (
        "healthy: target entropy of dino 4.48 of 6.24 nats, effective rank 33 of 96, student and teacher agree to 0.89"
    )


def test_going_on_does_not_begin_the_warm_up_again() -> None:
    """A line of few steps before a stop has a mean of the rate that is larger in its last digit."""
    lines = demo()
    lines[3] |= {"step": 173, "lr": sum([0.004] * 7) / 7 * (1 + 1e-15)}
    assert lines[3]["lr"] > 0.004
    assert [verdict(lines[:count]).word for count in (4, 5, 6)] == [STARTING, HEALTHY, HEALTHY]


def test_a_later_stage_is_judged_by_its_own_warm_up() -> None:
    lines = demo() + later(10, first=5000)
    for line, rate in zip(lines[-10:], (0.001, 0.004, *[0.008] * 8), strict=True):
        line["lr"] = rate
    assert judged_from(lines) == 5000 + int(1.5 * 20) + 50


def test_a_failure_is_said_with_its_first_step_and_its_numbers() -> None:
    lines = demo() + [line | ONE_PROTOTYPE for line in later(3, first=1200)]
    found = verdict(lines)
    assert found.line.startswith(
        "collapsing since step 1,200: one prototype of dino takes 97 % of the samples, "
        "target entropy 0.02 of 6.24 nats; "
    )
    assert (found.word, found.cause, found.since) == ("collapsing", "dino: one prototype", 1200)


def test_two_readings_may_be_chance_and_a_good_one_ends_the_count() -> None:
    bad = [line | ONE_PROTOTYPE for line in later(5)]
    assert verdict(demo() + bad[:2]).word == HEALTHY
    assert verdict([*demo(), *bad[:2], *later(1, first=330), *bad[3:]]).word == HEALTHY


def test_lines_without_a_look_do_not_end_the_count() -> None:
    bad = [line | ONE_PROTOTYPE for line in later(3, first=400)]
    between: Lines = [{"step": 405, "lr": 0.004, "loss": 7.0}, {"step": 415, "lr": 0.004, "loss": 7.0}]
    assert verdict([*demo(), bad[0], between[0], bad[1], between[1], bad[2]]).since == 400


def test_the_earliest_failure_is_the_cause() -> None:
    lines = demo() + [line | ONE_PROTOTYPE for line in later(6)]
    for line in lines[-3:]:
        line |= CONSTANT
    assert verdict(lines).cause == "dino: one prototype"


def test_a_collapse_says_more_than_the_gradient_that_vanishes_with_it() -> None:
    lines = demo() + [line | {"grad_norm/backbone": 1e-5} for line in later(20)]
    assert verdict(lines).word == "vanishing"
    assert verdict([*lines[:-3], *(line | CONSTANT for line in lines[-3:])]).word == "collapsing"


def test_signs_of_the_start_count_only_if_they_last() -> None:
    lines: Lines = [line | ONE_PROTOTYPE for line in demo()]
    assert verdict(lines[:4]).word == STARTING  # step 170
    assert verdict(lines[:5]).since == 10


def test_repeats_and_what_is_not_finite_cannot_wait() -> None:
    assert verdict([line | {"health/repeated_crops": 1.0} for line in demo()[:3]]).word == "repeating"
    assert verdict([demo()[0] | {"health/not_finite": 0.5}]).word == "broken"


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"health/nearest": 0.015}, "few directions"),
        ({"health/agreement": 0.1}, "student and teacher"),
        ({"health/patch_norm": 2e4}, "norms"),
        ({"grad_norm/backbone": 200.0}, "grad_norm/backbone"),
        ({"health/student_change": 0.0, "health/teacher_change": 0.0}, "student"),
        ({"health/student_change": 0.1, "health/teacher_change": 0.0, "momentum": 0.99}, "teacher"),
    ],
)
def test_every_sign_has_its_name(changes: dict[str, float], cause: str) -> None:
    assert verdict(demo() + [line | changes for line in later(3)]).cause == cause


def test_a_teacher_at_the_end_of_its_schedule_may_stand_still() -> None:
    still = {"health/student_change": 0.1, "health/teacher_change": 0.0, "momentum": 1.0}
    assert verdict(demo() + [line | still for line in later(3)]).word == HEALTHY


def test_a_loss_that_does_not_move_is_stuck() -> None:
    moving = [line | {"loss": 7 + 0.01 * (index % 3)} for index, line in enumerate(later(40))]
    assert verdict(demo() + moving).word == HEALTHY
    still = [line | {"loss": 6.2383} for line in later(30)]
    assert verdict(demo() + still).word == "stuck"


def test_measurements_and_damaged_lines_are_passed_over() -> None:
    assert verdict([]).word == STARTING
    assert verdict([{"loss": 1.0}, {"step": 5, "evaluation": "knn", "top1@20": 3.0}, *demo()]).word == HEALTHY
