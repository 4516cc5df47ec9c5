"""dinokit: self-supervised vision foundation models of the DINO family, from a folder of images.

The front door. Each name is imported when it is first used, so that `import dinokit` stays fast and free of torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "load": "dinokit.checkpoints.load",
    "load_classifier": "dinokit.checkpoints.classifier",
    "Features": "dinokit.models.features",
    "Backbone": "dinokit.models.features",
    "Classifier": "dinokit.models.classifier",
    "list_models": "dinokit.commands.models",
    "pretrain": "dinokit.commands.pretrain",
    "distill": "dinokit.commands.distill",
    "adapt": "dinokit.commands.adapt",
    "evaluate": "dinokit.commands.evaluate",
    "evaluate_suite": "dinokit.commands.evaluate",
    "open_source": "dinokit.sources.source",
    "contact_sheet": "dinokit.visuals.contact",
    "embed": "dinokit.commands.embed",
    "curate": "dinokit.commands.curate",
    "pixels": "dinokit.dense.pixels",
    "predict": "dinokit.commands.predict",
    "look": "dinokit.commands.look",
    "report": "dinokit.commands.report",
    "data": "dinokit.commands.data",
    "plan": "dinokit.commands.plan",
    "plan_detection": "dinokit.commands.plan",
    "replay": "dinokit.commands.replay",
    "convert": "dinokit.commands.convert",
    "export": "dinokit.commands.export",
    "finetune": "dinokit.commands.finetune",
    "doctor": "dinokit.commands.doctor",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dinokit' has no attribute '{name}'; it has {', '.join(_HOME)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
