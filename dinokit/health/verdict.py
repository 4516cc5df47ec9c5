"""What the log of a run says about its health, in words: a pure function of its lines.

Every failure has a sign on single lines, a patience, and an advice. It is found when its sign has held on that many
readings in a row, and it is said since when. Of several a collapse says most, for gradients explode or vanish with it,
and of several of one kind the earliest: the others follow from it.

At the start targets are nearly uniform, one prototype takes nearly all and features lie in a few directions, as in a
collapse. Such signs are a failure only if they last beyond 1.5 times the warm-up of the learning rate, plus 50 steps.

The thresholds were measured on `demo` at 300 steps and on provoked failures of 200 (docs/design.md, Health).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

Line = Mapping[str, Any]  # of metrics.jsonl

HEALTHY, STARTING = "healthy", "starting"
TELLING = ("repeating", "broken", "collapsing")  # failures that others follow from
PATIENCE = 3  # readings in a row; one alone may be chance
AFTER_WARMUP, AND_STEPS = 1.5, 50
STEADY = 0.999  # of the peak of the learning rate: it has warmed up

# Share of the log K or log n nats that a prototype could tell of an image. Healthy: 0.12 at step 60, 0.3 at 300;
# untrained 0.005; one prototype and uniform targets: below 0.0002.
LEAST_INFORMATION = 0.002
# Share of samples with the same prototype. Healthy: 0.16 at step 60, then less; untrained and collapsed: 1.
MOST_ON_ONE = 0.9
# Share of log K. Healthy: 0.98 at step 10, 0.9 at 60; teacher temperature 0.5: 0.9999 and more.
UNIFORM = 0.99
# Distance to the nearest CLS on the sphere. Healthy: 0.25 at step 60, 0.5 at 300; untrained 0.039; collapsed prototypes
# pull it to 0.013 in 50 steps and to 0.005 in 200. It is 0 where the network gives all images one vector.
CONSTANT, CROWDED = 1e-4, 0.02
# Effective rank of CLS. Healthy: 20 at step 60, 33 at 300; untrained 5; collapsed: 2.2, then 1.4.
FEW_DIRECTIONS = 2.5
# Cosine of student and teacher. Healthy: 0.62 at its lowest; learning rate 75 times too high: 0.06.
LEAST_AGREEMENT = 0.3
# Of tokens before the final norm. Healthy: 2 to 27; artefacts of DINOv2-g are hundreds (arXiv:2309.16588, figure 3);
# learning rate 75 times too high: 1e4 at step 90, 1e5 at 200.
LONGEST = 1e4
# Relative change of features between looks. Healthy: 0.01 at the very end, 0.1 to 1 before; frozen: 0 exactly.
STANDING = 1e-6
SLOW = 0.9999  # teacher momentum from which on a teacher that stands still means nothing
# Of the usual gradient. Healthy: the first is 13 times as large, then 0.8 to 1.3; collapsed: 5e-7 of the largest. With
# LayerScale a gradient starts small and may grow a hundredfold: one below LARGE does not explode.
FASTEST, SLOWEST, LARGE = 100.0, 1e-4, 10.0
# Share of a step's crops or images. Healthy: 0, and 0.06 where a pass over the data ends.
REPEATED = 0.5
# Lines over which the loss varies by less than this share of itself. Healthy: 0.01 and more.
STUCK, STILL = 30, 1e-5


@dataclass(frozen=True)
class Verdict:
    """A word for it, and a line for a person."""

    word: str  # healthy, starting, or what kind of failure
    line: str
    cause: str = ""  # which failure; a verdict is news when it changes
    since: int | None = None  # step at which a failure was first seen


@dataclass(frozen=True)
class Failure:
    """One way to fail."""

    word: str
    cause: str
    names: tuple[str, ...]  # what a line must hold to tell
    holds: Callable[[Line], bool]
    says: Callable[[Line], str]  # with the numbers of the newest line
    advice: str
    patience: int = PATIENCE
    early: bool = False  # is a failure at any step


def verdict(history: Sequence[Line]) -> Verdict:
    """Judge a run by the lines of its log, in order; lines without `step` and measurements do not count."""
    history = [line for line in history if isinstance(line.get("step"), int) and "evaluation" not in line]
    ready = judged_from(history)
    found: list[tuple[int, Failure, Line]] = []
    for failure in _failures(history):
        streak = _streak(history, failure)  # newest first
        counts = failure.early or (ready is not None and streak and streak[0]["step"] >= ready)
        if counts and len(streak) >= failure.patience:
            found.append((streak[-1]["step"], failure, streak[0]))
    if found:
        order = {word: place for place, word in enumerate(TELLING)}
        since, failure, line = min(found, key=lambda each: (order.get(each[1].word, len(order)), each[0]))
        said = f"{failure.word} since step {since:,}: {failure.says(line)}; {failure.advice}"
        return Verdict(failure.word, said, failure.cause, since)
    if ready is None:
        return Verdict(STARTING, "starting: judged once the learning rate has warmed up")
    looks = [line["step"] for line in history if "health/not_finite" in line]
    if (looks or [history[-1]["step"]])[-1] < ready:  # a run without a probe is judged by its other lines
        return Verdict(STARTING, f"starting: judged from step {ready:,} on")
    return Verdict(HEALTHY, _well(history))


def judged_from(history: Sequence[Line]) -> int | None:
    """Return the step from which on a run is judged; None while its learning rate rises.

    It is the last rise that counts, from where it began: a later stage has one of its own. Rates are means over lines
    of different lengths, which differ in the last digits where the rate stands still.
    """
    rates = [(line["step"], line["lr"]) for line in history if "lr" in line]
    if not rates:
        return None
    peak = max(rate for _, rate in rates)
    top = next(place for place, (_, rate) in enumerate(rates) if rate >= STEADY * peak)
    if top == len(rates) - 1:
        return None
    bottom = top
    while bottom and rates[bottom - 1][1] < rates[bottom][1]:
        bottom -= 1
    warm, began = rates[top][0], rates[bottom][0] if bottom else 0
    return began + int(AFTER_WARMUP * (warm - began)) + AND_STEPS


def _streak(history: Sequence[Line], failure: Failure) -> list[Line]:
    """Return the newest lines on which the sign has held without a break, newest first."""
    streak: list[Line] = []
    for line in reversed(history):
        if all(name in line for name in failure.names):
            if not failure.holds(line):
                break
            streak.append(line)
    return streak


def _failures(history: Sequence[Line]) -> Iterable[Failure]:
    """Yield what could be wrong; of those that begin together the first is said."""
    names = dict.fromkeys(name for line in history[-500:] for name in line)
    yield from map(_repeated, ("crops", "images"))
    broken = "health/not_finite"
    yield Failure(
        "broken", "not finite", (broken,),
        lambda line: line[broken] > 0,
        lambda line: f"the features of {_percent(line[broken])} of the images are not finite",
        "go back to an earlier checkpoint with a lower optim.lr",
        patience=1, early=True,
    )  # fmt: skip
    yield from _collapses(name.split("/")[1] for name in names if name.endswith("/information"))
    for name in names:
        if name.startswith("grad_norm/"):
            yield from _gradients(history, name)
    yield from _motion(history)


def _repeated(what: str) -> Failure:
    name = f"health/repeated_{what}"
    return Failure(
        "repeating", name, (name,),
        lambda line: line[name] >= REPEATED,
        lambda line: f"{_percent(line[name])} of a step's {what} were given in the steps before, or twice",
        "the loader gives the same again: look at the order of the source, and for duplicates in it",
        early=True,
    )  # fmt: skip


def _collapses(objectives: Iterable[str]) -> Iterable[Failure]:
    nearest, rank = "health/nearest", "health/rank_cls"
    yield Failure(
        "collapsing", "constant output", (nearest, rank),
        lambda line: line[nearest] < CONSTANT,
        lambda line: f"the network gives all images one vector (effective rank {line[rank]:.2f}, nearest image at "
                     f"{line[nearest]:.1g})",
        "start again with a lower optim.lr; look at the images, are they all alike?",
    )  # fmt: skip
    for name in objectives:
        yield from _prototypes(name)
    yield Failure(
        "collapsing", "few directions", (nearest, rank, f"{rank}_share"),
        lambda line: line[nearest] < CROWDED or line[rank] < FEW_DIRECTIONS,
        lambda line: f"the CLS features of all images crowd together (nearest at {line[nearest]:.2g} on the sphere, "
                     f"effective rank {_of(line, rank)}"
                     + (f", KoLeo {line['loss/koleo']:.2f})" if "loss/koleo" in line else ")"),
        "raise objectives.koleo.weight, or lower optim.lr",
    )  # fmt: skip


def _prototypes(name: str) -> Iterable[Failure]:
    information, top, entropy, share, marginal = (
        f"health/{name}/{sign}"
        for sign in ("information", "top", "target_entropy", "target_entropy_share", "marginal_entropy_share")
    )
    yield Failure(
        "collapsing", f"{name}: one prototype", (information, top, entropy, share, marginal),
        lambda line: line[top] >= MOST_ON_ONE and line[information] < LEAST_INFORMATION and line[marginal] < 0.5,
        lambda line: f"one prototype of {name} takes {_percent(line[top])} of the samples, target entropy "
                     f"{_of(line, entropy, digits=2)} nats",
        f"balance the targets: objectives.{name}.targets sinkhorn or a lower centre_momentum; or raise koleo.weight",
    )  # fmt: skip
    yield Failure(
        "collapsing", f"{name}: uniform targets", (information, entropy, share),
        lambda line: line[share] > UNIFORM and line[information] < LEAST_INFORMATION,
        lambda line: f"the targets of {name} are uniform and say nothing of an image, target entropy "
                     f"{_of(line, entropy, digits=2)} nats",
        f"lower objectives.{name}.teacher_temperature (0.04 is usual), or optim.lr",
    )  # fmt: skip


def _gradients(history: Sequence[Line], name: str) -> Iterable[Failure]:
    part = name.split("/")[1]
    # the lower quartile of the first readings: an explosion among them does not raise it
    usual = [line[name] for line in history if name in line][:50]
    if len(usual) < 4:
        return
    usual_norm = quantiles(usual, n=4)[0]
    yield Failure(
        "exploding", name, (name,),
        lambda line: line[name] > max(FASTEST * usual_norm, LARGE),
        lambda line: f"the gradient of {part} has norm {line[name]:.3g}, {usual_norm:.3g} was usual",
        "lower optim.lr or optim.clip, or go back to an earlier checkpoint",
    )  # fmt: skip
    if part == "backbone":
        yield Failure(
            "vanishing", name, (name,),
            lambda line: line[name] <= SLOWEST * max(usual),
            lambda line: f"the gradient of {part} has norm {line[name]:.3g}, {max(usual):.3g} at its largest",
            "nothing more is learned: look at the weights of the losses",
            patience=4 * PATIENCE,  # it may be the first sign of a collapse, which says more
        )  # fmt: skip


def _motion(history: Sequence[Line]) -> Iterable[Failure]:
    student, teacher = "health/student_change", "health/teacher_change"
    yield Failure(
        "exploding", "norms", ("health/patch_norm", "health/cls_norm"),
        lambda line: max(line["health/patch_norm"], line["health/cls_norm"]) > LONGEST,
        lambda line: f"tokens before the final norm are {line['health/patch_norm']:,.0f} long",
        "lower optim.lr or raise optim.weight_decay, from an earlier checkpoint",
    )  # fmt: skip
    yield Failure(
        "apart", "student and teacher", ("health/agreement",),
        lambda line: line["health/agreement"] < LEAST_AGREEMENT,
        lambda line: f"student and teacher see the same image differently (cosine {line['health/agreement']:.2f})",
        "the student runs away from its average: lower optim.lr or momentum",
    )  # fmt: skip
    yield Failure(
        "frozen", "student", (student,),
        lambda line: line[student] < STANDING and line.get("lr", 0) > 0,
        lambda line: "the student gives the same features as at the last look",
        "no weight moves: look at optim.lr and optim.layer_decay",
    )  # fmt: skip
    yield Failure(
        "frozen", "teacher", (student, teacher, "momentum"),
        lambda line: line[teacher] < STANDING < line[student] and line["momentum"] < SLOW,
        lambda line: "the teacher gives the same features as at the last look, and the student does not",
        "the average is not updated; this is a bug, please report it",
    )  # fmt: skip
    recent = [line["loss"] for line in history[-STUCK:] if "loss" in line]
    still = len(recent) == STUCK and max(recent) - min(recent) <= STILL * abs(recent[-1])
    yield Failure(
        "stuck", "loss", ("loss",),
        lambda line: still and abs(line["loss"] - recent[-1]) <= STILL * abs(recent[-1]),
        lambda line: f"the loss stays at {line['loss']:.5g}",
        "raise optim.lr, or look at collapse",
        patience=STUCK,
    )  # fmt: skip


def examples() -> Iterable[Failure]:
    """Yield every failure there is, of an objective called dino: what documentation lists."""
    parts = ("information", "top", "target_entropy", "target_entropy_share", "marginal_entropy_share")
    line: dict[str, Any] = {f"health/dino/{part}": 0.5 for part in parts} | {"grad_norm/backbone": 0.5}
    return _failures([line | {"step": step} for step in range(4)])


def _well(history: Sequence[Line]) -> str:
    """Say healthy with the newest numbers there are."""
    newest: dict[str, Any] = {}
    for line in history[-500:]:
        newest |= line
    facts = []
    told = {key.split("/")[1] for key in newest if key.endswith("/target_entropy")}
    if told:
        name = "dino" if "dino" in told else min(told)
        facts.append(f"target entropy of {name} {_of(newest, f'health/{name}/target_entropy', digits=2)} nats")
    if newest.get("health/rank_cls_share"):
        facts.append(f"effective rank {_of(newest, 'health/rank_cls', digits=0)}")
    if "health/agreement" in newest:
        facts.append(f"student and teacher agree to {newest['health/agreement']:.2f}")
    return f"healthy: {', '.join(facts)}" if facts else "healthy, as far as the loss and its gradients tell"


def _of(line: Line, name: str, *, digits: int = 1) -> str:
    """Write a value and the largest it could be, which its share tells."""
    value, share = line[name], line[f"{name}_share"]
    return f"{value:.{digits}f} of {value / share:.{digits}f}" if share else f"{value:.{digits}f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
