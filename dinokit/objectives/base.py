"""What every training objective is: features of student and teacher in, named losses out.

An objective is one file of this folder that defines `Config` (extending the one here) and `Objective`. It says which
inputs it `needs`, owns its heads as Pairs, and knows nothing of data, backbones or optimisers. Its forward has no side
effect: what it would like to remember (the mean of the teacher's logits, say) it returns as statistics, and only
`after_step` folds them in. A step that is skipped or repeated therefore leaves no trace, and with gradient accumulation
the engine averages the statistics of the micro-batches and folds once.
"""

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dinokit.core.messages import unknown_name
from dinokit.core.numbers import at_least
from dinokit.models import head
from dinokit.models.features import Features
from dinokit.models.head import Pair


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How much of an image an objective is shown, for the plan of a run."""

    crops: int  # global ones
    locals: int
    hidden: float  # patches of the global crops, averaged over the masks
    patches: int  # of a global crop
    dim: int  # of the backbone's features


@dataclass(frozen=True, kw_only=True)
class HeadUse:
    """A head and how many tokens of an image it sees."""

    config: head.Config
    owned: bool  # False: it borrows the weights of another objective's
    student: float  # tokens per image
    teacher: float
    targets: float  # rows of the matrix of targets per image
    reductions: int  # vectors of one number per prototype that ranks sum in a micro-batch


@dataclass(frozen=True, kw_only=True)
class Config:
    """The part of a configuration that all objectives share."""

    weight: float = at_least(0, 1.0)  # of the whole objective

    def check_batch(self, images: int, *, ranks: int = 1) -> None:
        """Refuse a number of images per micro-batch, over all ranks, or a number of ranks that cannot work."""

    def for_students(self) -> "Config | None":
        """Return it as the students of a frozen teacher learn by it; None if they cannot."""
        return self

    def head_use(self, seen: Seen, *, siblings: Mapping[str, "Config"]) -> HeadUse | None:  # noqa: ARG002
        """Say which head it has and what that sees; None without one.

        Args:
            siblings: the objectives before this one, by name; one of them may lend its head.
        """
        return None

    def operations(self, seen: Seen) -> float:  # noqa: ARG002
        """Count the operations of an image beside those of a head; what is small beside a network is left out."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What an objective may look at; all features are crop-major with leading axes [view, batch]."""

    student_global: Features | None = None  # of the global crops, with the patches of `masks` hidden
    student_local: Features | None = None  # of the local crops, never masked
    teacher_global: Features | None = None  # of the same global crops, nothing hidden, no gradient
    anchor_global: Features | None = None  # of the same crops undistorted, and perhaps larger, by an earlier network
    masks: Bool[Tensor, "view batch patch"] | None = None  # True where hidden from the student


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What one forward says; `total` is what to minimise."""

    terms: dict[str, Tensor]  # scalars, unweighted, float32
    weights: dict[str, float]  # of the same names, at this step and for this number of crops
    statistics: dict[str, Tensor] = field(default_factory=dict)  # for `after_step`; no gradient, equal on all ranks

    @property
    def total(self) -> Float[Tensor, ""]:
        """Sum the weighted terms."""
        return torch.stack([self.weights[name] * term for name, term in self.terms.items()]).sum()


class Memory(nn.Module, ABC):
    """A part of an objective that remembers something from step to step."""

    @abstractmethod
    def fold(self, statistics: Mapping[str, Tensor]) -> None:
        """Move what is remembered by the statistics of a step."""


class Objective(nn.Module, ABC):
    """Features of student and teacher -> named losses.

    The pairs among its children are its own: their students are optimised, their teachers are averages of the students.

    Args:
        config: the `Config` of the same file.
        dim: of the backbone's features.
        seed: of the initialisation of heads.
        siblings: the objectives built before this one, by name; one of them may lend its head.
    """

    needs: frozenset[str]  # fields of Inputs it reads; the trainer computes the union over objectives, no more

    def __init__(self, config: Any, *, dim: int, seed: int, siblings: Mapping[str, "Objective"]) -> None:  # noqa: ARG002
        super().__init__()
        self.config = config
        self.needs = self.needed(config)

    @classmethod
    def needed(cls, config: Any) -> frozenset[str]:  # noqa: ARG003 (an objective whose needs depend on it overrides this)
        """Return what the objective needs under a configuration."""
        return cls.needs

    @abstractmethod
    def forward(self, inputs: Inputs, *, step: int) -> Losses:
        """Compute the losses of this rank's images, changing nothing; all ranks must call together."""

    def after_step(self, statistics: Mapping[str, Tensor]) -> None:
        """Fold the statistics of a finished step into what remembers; call once per optimiser step."""
        for part in self.children():
            if isinstance(part, Memory):
                part.fold(statistics)

    def pairs(self) -> dict[str, Pair[Any]]:
        """Name the pairs it owns."""
        return {name: part for name, part in self.named_children() if isinstance(part, Pair)}


@cache
def names() -> tuple[str, ...]:
    """List the objectives on disk."""
    files = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = {name: importlib.import_module(f"{__package__}.{name}") for name in files}
    found = {name: getattr(module, "Objective", None) for name, module in modules.items()}
    return tuple(name for name, kind in found.items() if kind is not None and not inspect.isabstract(kind))


def find(name: str) -> ModuleType:
    """Import an objective by its file name; the module holds `Config` and `Objective`."""
    known = names()
    if name not in known:
        raise unknown_name("objective", name, known)
    return importlib.import_module(f"{__package__}.{name}")
