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
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dinokit.core.bounds import at_least
from dinokit.core.errors import unknown_name
from dinokit.models.features import Features
from dinokit.models.pair import Pair


@dataclass(frozen=True, kw_only=True)
class Config:
    """The part of a configuration that all objectives share."""

    weight: float = at_least(0, 1.0)  # of the whole objective

    def check_batch(self, images: int, *, ranks: int = 1) -> None:
        """Refuse a number of images per micro-batch, over all ranks, or a number of ranks that cannot work."""


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


class Objective(nn.Module, ABC):
    """Features of student and teacher -> named losses."""

    needs: frozenset[str]  # fields of Inputs it reads; the engine computes the union over objectives, no more

    @classmethod
    def needed(cls, config: Any) -> frozenset[str]:  # noqa: ARG003 (an objective whose needs depend on it overrides this)
        """Return what the objective needs under a configuration."""
        return cls.needs

    @classmethod
    @abstractmethod
    def build(cls, config: Any, *, dim: int, seed: int, siblings: Mapping[str, "Objective"]) -> "Objective":
        """Make the objective for a backbone.

        Args:
            config: the `Config` of the same file.
            dim: of the backbone's features.
            seed: of the initialisation of heads.
            siblings: the objectives built before this one, by name; one of them may lend its head.
        """

    @abstractmethod
    def forward(self, inputs: Inputs, *, step: int) -> Losses:
        """Compute the losses of this rank's images, changing nothing; all ranks must call together."""

    @abstractmethod
    def after_step(self, statistics: Mapping[str, Tensor]) -> None:
        """Fold the statistics of a finished step into the state; call once per optimiser step."""

    @abstractmethod
    def pairs(self) -> dict[str, Pair[Any]]:
        """Name the pairs it owns: their students are optimised, their teachers are averages of the students."""


def names() -> tuple[str, ...]:
    """List the objectives on disk."""
    files = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return tuple(sorted(name for name in files if _is_objective(_module(name))))


def find(name: str) -> ModuleType:
    """Import an objective by its file name; the module holds `Config` and `Objective`."""
    known = names()
    if name not in known:
        raise unknown_name("objective", name, known)
    return _module(name)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__package__}.{name}")


def _is_objective(module: ModuleType) -> bool:
    return hasattr(module, "Config") and hasattr(module, "Objective") and not inspect.isabstract(module.Objective)
