"""The frame of an evaluation that trains heads: choose protocol and splits, measure each head, keep the best."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from dinokit.core.errors import UserError
from dinokit.core.files import write_json
from dinokit.core.log import info, warn
from dinokit.dense.embedding import device_of
from dinokit.dense.fit import Member
from dinokit.dense.heads import About, save_head
from dinokit.models.features import Backbone
from dinokit.sources.splits import SPLITS, split_name

C = TypeVar("C")
QUICK = "quick"  # the protocol that learns from a bank of patches
IMAGES = 500, 200  # of training, of test, at most, of the quick protocol


def settled(config: C, backbone: Backbone) -> C:
    """Choose the protocol where none is given: the published one, on a CPU the quick one, and say so.

    The baselines of a model are measured by its settled settings.
    """
    settings: Any = config
    if settings.protocol is not None or getattr(settings, "head", None) is not None:
        return config
    if device_of(backbone).type != "cpu":
        return replace(settings, protocol="linear")  # type: ignore[no-any-return]
    info("on a CPU: the quick protocol, right in minutes; --protocol linear is the published one, which takes hours")
    return replace(settings, protocol=QUICK)  # type: ignore[no-any-return]


def chosen_splits(
    data: str, known: Sequence[str], *, train: str | None, test: str | None, prefers: Sequence[str], trains: bool = True
) -> tuple[str | None, str | None]:
    """Return the split to learn from and the one to measure on, where they are not given: train, and one of `prefers`.

    Raises:
        UserError: if there is none: a head that is measured on what it has seen says nothing.
    """
    judge = test or next((name for name in prefers if name in known), None)
    if judge is None and (trains or known):
        raise UserError(f"expected a split to test on in {data}, found no split {' or '.join(prefers)}; add one")
    learn = train or (SPLITS[0] if SPLITS[0] in known else None)
    if trains and learn is None:
        raise UserError(
            f"expected a split to train on in {data}, found no split train beside {', '.join(known)}; add one, or name "
            "one with --train"
        )
    if trains and learn is not None and judge is not None and split_name(learn) == split_name(judge):
        warn(f"trained and measured on the same images, of {judge}: the numbers say how well they are learnt by heart")
    return learn, judge


def keep_best(
    members: Sequence[Member],
    measure: Callable[[nn.Module], tuple[dict[str, float], dict[str, Any]]],
    *,
    name: str,
    better: Callable[[dict[str, float]], float],
    out: Path | None,
    about: Callable[[nn.Module], About] | None,
) -> dict[str, float]:
    """Measure every head; return the numbers of the best, and write them with what else was found, and its head.

    As published, the best of a sweep of learning rates is the best on the test images.

    Args:
        better: larger for the better numbers.
        about: describes a head; None: it is not saved.
    """
    measured = [measure(member.head) for member in members]
    best = max(range(len(members)), key=lambda place: better(measured[place][0]))
    (result, more), member = measured[best], members[best]
    if member.lr is not None:
        result["lr"] = member.lr
    if out is not None:
        if about is not None:
            save_head(out / "head", member.head, about(member.head))
        write_json(out / f"{name}.json", {**result, **more})
    return result
