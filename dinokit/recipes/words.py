"""The words that a recipe is written in: `from dinokit.recipes.words import *` is all that it needs of this package.

The published values of DINOv2 and DINOv3 are the defaults where both agree, crops and colours among them; a recipe says
what differs.
"""

from dataclasses import replace
from typing import Any

from dinokit.config import to_plain
from dinokit.core.schedule import Schedule, constant, cosine, ramp
from dinokit.images.intensity import Pixels
from dinokit.models import head, vit
from dinokit.models.architecture import VARIANTS
from dinokit.objectives import dino, gram, ibot, koleo
from dinokit.training import anchor, optim
from dinokit.training.config import Data, Experiment, ObjectiveConfigs, Runtime, TrainConfig
from dinokit.training.stages import Changes, Stage, Stages
from dinokit.views import augment, masking, multicrop

__all__ = ["VARIANTS", "Data", "Experiment", "ObjectiveConfigs", "Pixels", "Runtime", "TrainConfig", "head", "vit"]
__all__ += ["anchor", "augment", "dino", "gram", "ibot", "koleo", "masking", "multicrop", "optim", "replace"]
__all__ += ["Schedule", "Stage", "Stages", "changes", "constant", "cosine", "ramp"]


def changes(**settings: Any) -> Changes:
    """Write what a stage changes: settings of the experiment, groups as dicts or configs."""
    return Changes(to_plain(settings))
