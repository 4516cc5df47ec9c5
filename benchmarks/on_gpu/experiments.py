"""Experiments that the checks train, from one whose step takes milliseconds anywhere to the recipe of a ViT-L."""

from dataclasses import replace

from dinokit import recipes
from dinokit.config import override
from dinokit.models.architecture import VARIANTS
from dinokit.training.config import Experiment, read
from on_gpu.place import GOLDEN


def official() -> Experiment:
    """Return what tests/golden/dinov3_step.safetensors is a step of."""
    return read(GOLDEN / "dinov3_step.yaml").experiment


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
