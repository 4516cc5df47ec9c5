"""`dinokit convert`: write a model in another layout: official, hf, timm, dinokit"""

from pathlib import Path

from dinokit.checkpoints import convert as conversion
from dinokit.core.messages import info


def convert(source: Path, out: Path, *, to: str, heads: int | None = None, exact_periods: bool = False) -> None:
    """Write a model in another layout; nothing is written unless it reads back bit by bit.

    Args:
        source: a run folder, RUN/checkpoints/STEP, a weights file, a folder with model.safetensors and config.json, or
            a name that `dinokit models` lists.
        out: NAME.pth for official, NAME.safetensors for dinokit, a folder for hf and timm; must not exist.
        to: official, hf (transformers), timm or dinokit.
        heads: of attention, for weights that do not say it, such as a bare file of a width that no release has.
        exact_periods: compute DINOv3's RoPE periods anew; official files store them rounded to bfloat16.
    """
    left = conversion.convert(Path(source), Path(out), to=to, heads=heads, exact_periods=exact_periods)
    if left:
        info(f"{to} has no place for {', '.join(left)}, which only training uses")
    info(f"{to} weights {out}")
