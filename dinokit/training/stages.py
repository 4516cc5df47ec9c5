"""The stages of a run, one after the other: what each changes, and what it takes over from the one before.

DINOv3 trains in three: pre-training, then Gram anchoring with all that was learned, optimiser included, then high
resolution, which begins anew from the EMA teacher. A stage is written as what differs from the stage before it; its
schedules count its own steps.
Source: DINOv3 (arXiv:2508.10104) sections 3.2, 4.2 and 5.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NewType

from torch import Tensor

from dinokit.config import converter, current, to_plain
from dinokit.core.bounds import at_least
from dinokit.core.messages import UserError

FIRST = "pretrain"  # name of what comes before the stages
Begin = Literal["continue", "teacher"]
# settings that earlier versions wrote into config.yaml, and the value that all of them had in every recipe
RETIRED = {
    "data.masks.roll": False,
    "data.views.local_grid": 0,
    "data.views.share_jitter": False,
    "objectives.gram.patches": "all",
    "objectives.gram.scope": "image",
}
Changes = NewType("Changes", dict[str, Any])  # settings of the experiment, as in config.yaml


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a run that has settings of its own."""

    steps: int = at_least(1)  # optimiser steps
    begin: Begin = (
        "continue"  # with all that was learned; or teacher: student and teacher from the teacher, new moments
    )
    changes: Changes = field(default_factory=lambda: Changes({}))  # settings that differ from the stage before


Stages = NewType("Stages", dict[str, Stage])


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights that a run begins with instead of random ones."""

    source: str  # a run, RUN/checkpoints/STEP, or a model's file or name
    begin: Begin = "teacher"  # as of a stage; a model's file has no more than a teacher


def changed(plain: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain settings with the changes put in; groups are merged, anything else is replaced."""
    result = dict(plain)
    for name, value in changes.items():
        old = result.get(name)
        merges = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[name] = changed(old, value) if merges else value  # type: ignore[arg-type]
    return result


def carried_over(before: Mapping[str, Tensor], fresh: Mapping[str, Tensor], *, begin: Begin) -> dict[str, Tensor]:
    """Return the state that a stage begins with.

    Args:
        before: state of the stage before, or of another run.
        fresh: state of a trainer that has not trained; names that `before` does not know keep these values.

    Raises:
        UserError: if a tensor has another shape.
    """
    result = dict(fresh)
    for name, value in fresh.items():
        source = name.replace(".student.", ".teacher.") if begin == "teacher" else name
        if name.startswith("anchor.") or source not in before:
            continue
        if before[source].shape != value.shape:
            raise UserError(
                f"{name} has the shape {list(value.shape)} here and {list(before[source].shape)} in what the stage "
                "begins with; give the backbone and the heads the settings they had"
            )
        result[name] = before[source]
    if begin == "continue":  # moments of what is not trained any more are left lying by who loads them
        result |= {name: value for name, value in before.items() if name.startswith("optimizer.")}
    return result


def _structure_changes(value: Any, _: Any) -> Changes:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected settings of the experiment that differ, got {value!r}")
    return Changes(current(to_plain(value), RETIRED))


def _structure_stages(value: Any, _: Any) -> Stages:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected stages by name, got {value!r}")
    # a stage that is set to null is left out
    chosen = {str(name): stage for name, stage in value.items() if stage is not None}
    return Stages({name: converter.structure(stage, Stage) for name, stage in chosen.items()})


converter.register_structure_hook(Changes, _structure_changes)
converter.register_structure_hook(Stages, _structure_stages)
