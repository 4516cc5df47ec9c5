"""`dinokit models`: list architectures, published weights and recipes"""

from json import dumps
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dinokit.checkpoints.hub import RELEASES
from dinokit.models.architecture import ARCHITECTURES

# as recipes.names() finds them: to import that would import all that trains
FILES = (Path(__file__).parent.parent / "recipes").glob("[!_]*.py")
RECIPES = sorted(path.stem.replace("_", "-") for path in FILES if f"\ndef {path.stem}()" in path.read_text("utf-8"))


def models(*, json: bool = False) -> None:
    """List architectures, published weights with their licences, and recipes.

    Args:
        json: print JSON.
    """
    if json:
        weights = {
            name: {"architecture": r.architecture, "licence": r.licence, "repository": r.repository}
            for name, r in RELEASES.items()
        }
        listed = {"architectures": [*ARCHITECTURES], "weights": weights, "recipes": RECIPES}
        print(dumps(listed, indent=2))
        return
    columns = ("architecture", "kind", "patch", "dim", "depth", "heads", "registers", "positions")
    table = Table(*columns, box=None, pad_edge=False, collapse_padding=True)  # whole names in 80 columns
    for name, c in ARCHITECTURES.items():
        own = [getattr(c, setting, "-") for setting in ("heads", "registers", "position")]  # of transformers
        table.add_row(name, c.kind, *map(str, (c.patch_size, c.dim, c.depth, *own)))
    Console().print(table)
    print()
    table = Table("published weights", "architecture", "licence", box=None, pad_edge=False)
    for name, release in RELEASES.items():
        table.add_row(name, release.architecture, release.licence)
    Console().print(table)
    print(f"\nrecipes: {', '.join(RECIPES)}")


def list_models(pattern: str = "") -> list[str]:
    """Return the names of all architectures and of all published weights that contain the pattern."""
    return [name for name in (*ARCHITECTURES, *RELEASES) if pattern in name]
