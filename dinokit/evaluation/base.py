"""What every evaluation is: found by its name and measured beside baselines; and the frame of those that train dense
heads: which protocol, which splits, the best of several heads.

An evaluation is a file of this folder with a frozen dataclass `Config` and `run(backbone, config, out)`, which returns
its numbers and what else was found, both for OUT/NAME.json, and writes all but these to `out`; its name is the file's
name, and `measure` calls it. It may say more of itself: `PATCHES = True` if patches are measured and not CLS; `UNITS`,
the unit of a number by the beginning of its name. Every accuracy, recall and average precision is in percent. What is
shared by those that look at labelled images stands in sets/.
"""

from collections.abc import Callable, Collection, Sequence, Sized
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

from dinokit.core.files import write_json
from dinokit.core.messages import UserError, info, unknown_name, warn
from dinokit.core.order import evenly
from dinokit.dense.fit import Member
from dinokit.dense.heads import About, check_model, load_head, save_head
from dinokit.models.features import Backbone
from dinokit.models.pixels import PatchPixels, RawPixels
from dinokit.sources.location import SPLITS, split_name

NAMES = {"random-init": "untrained", "raw-pixels": "raw pixels"}  # of the baselines, for a person
QUICK = "quick"  # the protocol that learns from a bank of patches
IMAGES = 500, 200  # of training, of test, at most, of the quick protocol

Found = tuple[dict[str, float], dict[str, object]]  # numbers, and what else NAME.json says
C = TypeVar("C")
S = TypeVar("S", bound=Sized)


def names() -> list[str]:
    """List the evaluations on disk."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "base"))


def find(name: str) -> ModuleType:
    """Return the module of an evaluation, with its `Config` and `run`, or raise UserError."""
    if name not in names():
        raise unknown_name("evaluation", name, names())
    return import_module(f"dinokit.evaluation.{name}")


def measure(name: str, backbone: Backbone, config: Any, out: Path | None = None) -> dict[str, float]:
    """Measure a backbone by an evaluation and return its numbers alone; the arguments are those of `measured`."""
    return measured(name, backbone, config, out)[0]


def measured(name: str, backbone: Backbone, config: Any, out: Path | None = None) -> Found:
    """Measure a backbone by an evaluation; return its numbers, and what else was found, such as their intervals.

    Args:
        out: folder that receives NAME.json, with details, and whatever else the evaluation makes; None writes nothing.
    """
    numbers: dict[str, float]
    details: dict[str, object]
    numbers, details = find(name).run(backbone, settled(config, backbone), out)
    if out is not None:
        write_json(out / f"{name}.json", numbers | details)
    return numbers, details


def baselines(backbone: Backbone, *, seed: int = 0, dense: bool = False) -> dict[str, Backbone]:
    """Build what a result must be compared with: the same architecture untrained, and the pixels themselves.

    Args:
        seed: of the untrained weights.
        dense: the pixels of every patch, for what is measured on patches, instead of those of the whole image.
    """
    pixels = PatchPixels(patch_size=backbone.patch_size, channels=backbone.channels) if dense else raw_pixels(backbone)
    return {"random-init": backbone.untrained(seed=seed), "raw-pixels": pixels}


def raw_pixels(backbone: Backbone) -> RawPixels:
    """Build the raw-pixel baseline for a backbone: images up to 48 px as they are, larger ones at 32 px.

    Large vectors would need gigabytes, and shrinking makes this baseline stronger: 34.4 -> 36.7 mAP on demo:emoji.
    """
    size = backbone.pixels.size
    side = size if size is not None and size <= 48 else 32
    return RawPixels(size=side, channels=backbone.channels)


def settled(config: C, backbone: Backbone) -> C:
    """Choose one of several protocols if none is given: the published one, on a CPU the quick one, and say so.

    The baselines of a model are measured by its settled settings.
    """
    settings: Any = config
    if getattr(config, "protocol", "its only one") is not None or getattr(config, "head", None) is not None:
        return config
    published = getattr(config, "published", "linear")
    if backbone.device.type != "cpu":
        return replace(settings, protocol=published)  # type: ignore[no-any-return]
    other = f"--protocol {published} is the published one, which takes hours"
    info(f"on a CPU: the quick protocol, right in minutes; {other}")
    return replace(settings, protocol=QUICK)  # type: ignore[no-any-return]


def halves(
    config: Any,
    opened: Callable[[str | None], S],
    known: Sequence[str],
    *,
    prefers: Sequence[str],
    trains: bool = True,
) -> tuple[S, list[int], S, list[int]]:
    """Open what is learnt from and what is measured on, and choose images of each; without training both are the same.

    Args:
        config: with data, protocol, train, test and limit.
        known: splits of the data.
        prefers: splits to measure on.

    Raises:
        UserError: if there is none: a head that is measured on what it has seen says nothing.
    """
    judge = config.test or next((name for name in prefers if name in known), None)
    if judge is None and (trains or known):
        if not known:
            opened(None)  # which says what is expected, if the folder holds something else
        raise UserError(f"expected a split to test on in {config.data}, found no split {' or '.join(prefers)}; add one")
    learn = config.train or (SPLITS[0] if SPLITS[0] in known else None)
    if trains and learn is None:
        raise UserError(
            f"expected a split to train on in {config.data}, found no split train beside {', '.join(known)}; add one, "
            "or name one with --train"
        )
    if trains and split_name(str(learn)) == split_name(str(judge)):
        warn(f"trained and measured on the same images, of {judge}: the numbers say how well they are learnt by heart")
    train = opened(learn) if trains else None
    test = opened(judge)
    most, few = IMAGES if getattr(config, "protocol", None) == QUICK else (None, None)
    train = test if train is None else train
    return train, evenly(most, len(train)).tolist(), test, evenly(config.limit or few, len(test)).tolist()


def saved_head(backbone: Backbone, folder: str, *, task: str) -> tuple[nn.Module, About]:
    """Load a head that is measured as it is; refuse one of another task, or of another model."""
    head, about = load_head(folder)
    if about.task != task:
        raise UserError(f"{folder} is a head of {about.task}; give one that `evaluate {task} --save` wrote")
    check_model(about, backbone, model=backbone.name)
    return head.to(backbone.device), about


def check_untrained(config: Any, *, leaves: Collection[str]) -> None:
    """Refuse settings of a training beside a saved head, which is not trained.

    Args:
        leaves: the settings that there still are to choose.
    """
    if config.head is None:
        return
    usual = type(config)(data=config.data)
    unused = [name for name, value in vars(config).items() if value != getattr(usual, name) and name not in leaves]
    if unused:
        raise UserError(f"a saved head is not trained, so that {', '.join(unused)} cannot be set with head")


def keep_best(
    backbone: Backbone,
    members: Sequence[Member],
    judged: Callable[[nn.Module], Found],
    *,
    better: Callable[[dict[str, float]], float],
    out: Path | None,
    **about: Any,
) -> Found:
    """Judge every head; return what was found of the best, and keep it if it was trained here.

    As published, the best of a sweep of learning rates is the best on the test images.

    Args:
        better: larger for the better numbers.
        about: of `About.of`, for a head that was trained here.
    """
    found = [judged(member.head) for member in members]
    best = max(range(len(members)), key=lambda place: better(found[place][0]))
    (numbers, details), member = found[best], members[best]
    if member.lr is None:
        return numbers, details
    if out is not None:
        save_head(out / "head", member.head, About.of(backbone, **about))
    return numbers | {"lr": member.lr}, details
