"""The whole of a run's settings: the experiment, which may change numbers, and the runtime, which must not.

Here they are read and changed; what each of them is stands in experiment.py and runtime.py, and is imported from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dinokit.config import assigned, flat, from_plain, read_yaml, to_plain
from dinokit.core.messages import UserError
from dinokit.models.vit import Config as VitConfig
from dinokit.sources.source import absolute
from dinokit.training.course import Anchor, Place
from dinokit.training.experiment import ALONE, DRAWN, Data, Experiment, ObjectiveConfigs, RunStage
from dinokit.training.runtime import AUTO, Health, Measuring, Rollback, Runtime, Tolerance, TrackerName, Words

__all__ = [
    "ALONE",
    "AUTO",
    "DRAWN",
    "HALVES",
    "Data",
    "Experiment",
    "Health",
    "Measuring",
    "ObjectiveConfigs",
    "Rollback",
    "RunStage",
    "Runtime",
    "Tolerance",
    "TrackerName",
    "TrainConfig",
    "Words",
    "read",
    "with_full_paths",
    "with_settings",
]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A run, whole."""

    experiment: Experiment
    runtime: Runtime = field(default_factory=Runtime)

    def __post_init__(self) -> None:
        if self.runtime.groups and self.experiment.distil is None:
            raise UserError("runtime.groups is for the students of a distillation; set it to false")
        if self.runtime.sharding != "none" and self.experiment.distil is not None:
            raise UserError("a distillation is not sharded; set runtime.sharding to none")
        for network in self.experiment.networks.values():
            if self.runtime.sharding != "none" and not isinstance(network, VitConfig):
                raise UserError(f"runtime.sharding is for transformers, not a {network.kind}; set it to none")
            if self.runtime.sharding != "none" and self._factors:
                raise UserError(
                    "low-rank changes are not sharded; set runtime.sharding to none, or optim.trained to all"
                )
            if self.runtime.recompute != "none" and network.batch_norm:
                raise UserError(f"a {network.kind} would count images twice; set runtime.recompute to none")

    @property
    def _factors(self) -> bool:
        return any(stage.experiment.optim.trained.startswith("lora") for stage in self.experiment.all_stages)


HALVES: tuple[Literal["experiment"], Literal["runtime"]] = ("experiment", "runtime")  # left out of a dotted key
PARTS = ("freeze", "warmup", "hold", "decay")  # of a schedule, in steps
COUNTS = ("freeze_last_layer", "first", "every")  # other settings in steps, of optim and anchor


def read(path: Path) -> TrainConfig:
    """Read a config.yaml.

    Raises:
        UserError: if it is missing or does not fit.
    """
    try:
        return from_plain(TrainConfig, read_yaml(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def with_settings(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """Change settings by dotted keys; where `steps` changes, what counts in steps keeps its share of the run.

    So `--steps 400` makes a whole, shorter run of a recipe, and `--stages.NAME.steps 100` a whole, shorter stage.
    Parts of a schedule that are given themselves stay as they are given, and its others share what they leave.
    """
    plain = to_plain(config)
    experiment, given = plain["experiment"], {key.removeprefix("experiment."): each for key, each in settings.items()}
    stages = experiment.pop("stages")
    times = _stretch(experiment, experiment["steps"], given, steps="steps")
    for name, stage in stages.items():
        own, changes = f"stages.{name}", stage["changes"]
        _stretch(changes, stage["steps"], given, steps=f"{own}.steps", path=f"{own}.changes.")
        source = str((changes.get("anchor") or {}).get("source"))
        if source.isdecimal():  # a step of the run
            changes["anchor"]["source"] = str(round(times * int(source)))
    experiment["stages"] = stages
    return from_plain(TrainConfig, assigned(plain, settings, hidden=HALVES))


def with_full_paths(config: TrainConfig) -> TrainConfig:
    """Name images and anchors from the root: the run and its report are looked at from other folders too.

    Raises:
        UserError: if no images are given.
    """
    if not config.experiment.data.source:
        raise UserError("no images are given; add --data FOLDER or --data demo:fashion")
    places: dict[str, Any] = {"experiment.data.source": absolute(config.experiment.data.source)}
    measuring = config.runtime.eval
    named = ((word, word.partition("=")[0] in measuring.tasks) for word in measuring.data)
    parted = (word.partition("=") if of_one else ("", "", word) for word, of_one in named)
    places["runtime.eval.data"] = [name + equals + absolute(source) for name, equals, source in parted]
    for key, value in flat(to_plain(config)).items():
        place = str(value)
        if key.endswith("anchor.source") and Anchor(source=Place(place)).is_model and Path(place).exists():
            places[key] = str(Path(place).absolute())
    return with_settings(config, places)


def _stretch(plain: dict[str, Any], before: int, given: Mapping[str, Any], *, steps: str, path: str = "") -> float:
    """Multiply, in place, what plain settings count in steps by what `steps` is multiplied; return that.

    Args:
        before: how many steps there were.
        given: new settings by dotted key, which stay as they are.
        path: of `plain`, with a dot at its end.
    """
    now = given.get(steps)
    times = now / before if type(now) is int and 0 < now < 2**63 else 1.0
    for name in list(plain) if steps in given else ():
        if isinstance(plain[name], dict):
            _stretch(plain[name], before, given, steps=steps, path=f"{path}{name}.")
        elif name in COUNTS and type(plain[name]) is int and plain[name]:
            plain[name] = max(1, round(times * plain[name]))
    counts = {part: plain[part] for part in PARTS if type(plain.get(part)) is int}
    fixed = [given[path + part] for part in counts if type(given.get(path + part)) is int]
    free = {part: count for part, count in counts.items() if type(given.get(path + part)) is not int}
    left, first, last = max(0, round(times * sum(counts.values())) - sum(fixed)), 0, sum(free.values()) or 1
    for part, count in free.items() if steps in given else ():  # by their ends, so that rounding adds nothing
        plain[part] = round(left * (first + count) / last) - round(left * first / last)
        first += count
    return times
