"""Recipes: a run is a Python function that returns a typed config, found by its file name.

`dinov3-vits16` on the command line is `dinov3_vits16.py` here, with a function of the same name. A variant is
`replace(base(), ...)`, so the idea of an experiment is its difference from another.
"""

from importlib import import_module
from pathlib import Path

from dinokit.core.messages import unknown_name
from dinokit.training.config import TrainConfig, read


def names() -> list[str]:
    """List the recipes on disk, as the command line spells them."""
    files = Path(__file__).parent.glob("[!_]*.py")
    return sorted(path.stem.replace("_", "-") for path in files if f"\ndef {path.stem}()" in path.read_text("utf-8"))


def find(name: str) -> TrainConfig:
    """Return the config of a recipe, or of a config.yaml.

    Raises:
        UserError: if there is no such recipe or the file does not fit.
    """
    if name.endswith((".yaml", ".yml")):
        return read(Path(name))
    module = name.replace("-", "_")
    if module.replace("_", "-") not in names():
        raise unknown_name("recipe", name, names())
    config: TrainConfig = getattr(import_module(f"dinokit.recipes.{module}"), module)()
    return config
