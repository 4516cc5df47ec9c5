"""Experiments that the checks train, from one whose step takes milliseconds anywhere to the recipe of a ViT-L."""

from dataclasses import replace

from dinokit import recipes
from dinokit.config import override
from dinokit.core.numbers import constant
from dinokit.models import head, vit
from dinokit.models.architecture import VARIANTS
from dinokit.objectives import dino, gram, ibot, koleo
from dinokit.training import optim
from dinokit.training.config import Data, Experiment, ObjectiveConfigs
from dinokit.training.course import Anchor
from dinokit.views import masking, multicrop


def official() -> Experiment:
    """Return what tests/golden/dinov3_step.safetensors is a step of."""
    prototypes = head.Config(hidden=40, bottleneck=16, prototypes=48)
    return Experiment(
        recipe="tiny",
        steps=4,
        data=Data(
            views=multicrop.Config(global_size=48, local_size=24, local_count=4, anchor_size=96),
            masks=masking.Config(),
            batch_size=4,
        ),
        backbone=vit.Config(patch_size=8, dim=64, depth=2, heads=2, ffn_hidden=256),
        objectives=ObjectiveConfigs(
            {
                "dino": dino.Config(head=prototypes, teacher_temperature=constant(0.07)),
                "ibot": ibot.Config(head=prototypes, teacher_temperature=constant(0.07)),
                "koleo": koleo.Config(weight=0.1),
                "gram": gram.Config(),
            }
        ),
        optim=optim.Config(lr=constant(1e-3), weight_decay=constant(0.04), clip=None),
        momentum=constant(0.9),
        anchor=Anchor(),
        precision="fp32",
    )


def recipe(model: str, *, batch: int, tiny: bool, stage: str = "pretrain", drop: float = 0.0) -> Experiment:
    """Return DINOv3's recipe for ViT-S, B or L, or a stage of it.

    Args:
        model: s, b or l.
        tiny: a network of two blocks instead, with few prototypes and small crops.
        drop: stochastic depth; 0 does the work of the plain step.
    """
    found = recipes.find("dinov3-vits16").experiment
    small = {"dim": 64, "depth": 2, "heads": 2, "ffn_hidden": 128} if tiny else {}
    heads = {"hidden": 64, "bottleneck": 16, "prototypes": 128} if tiny else {}
    found = replace(found, backbone=replace(VARIANTS[f"dinov3_vit{model}16"], drop_path=drop, **small))
    settings: dict[str, object] = {"data.batch_size": batch, "objectives.koleo.group": None}
    settings |= {f"objectives.{name}.head.{key}": each for name in ("dino", "ibot") for key, each in heads.items()}
    if tiny:
        settings |= {"data.views.global_size": 64, "data.views.local_size": 32}
    found = override(found, settings)
    chosen = next(each.experiment for each in found.all_stages if each.name == stage)
    if tiny and chosen.data.views.anchor_size:
        chosen = override(chosen, {"data.views.anchor_size": 128})
    return chosen
