"""A transformer that costs nothing."""

from dinokit.images.intensity import Pixels
from dinokit.models.vit import Config, VisionTransformer

ARCHITECTURE = Config(patch_size=4, dim=16, depth=2, heads=2, ffn_hidden=32, registers=1, layer_scale=None)


def vit(*, size: int | None = 16, seed: int = 0) -> VisionTransformer:
    """Build a randomly initialised transformer with 4 px patches that looks at images of `size` px."""
    backbone = VisionTransformer(ARCHITECTURE, seed=seed).eval()
    backbone.pixels = Pixels((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), size)
    return backbone
