"""Every kind of backbone by its name: what a weights file or a config.yaml says it is, and how that is built.

A new kind is a file that defines `Config`, which names its kind, and the network, and a line in each of the three
places below: loading, training and the untrained baseline of an evaluation then know it.
"""

from collections.abc import Mapping
from typing import Any

from dinokit.config import from_plain
from dinokit.core.errors import unknown_name
from dinokit.models import convnext, resnet, vit

Architecture = vit.Config | convnext.Config | resnet.Config
Network = vit.VisionTransformer | convnext.ConvNeXt | resnet.ResNet
KINDS: dict[str, tuple[type[Architecture], type[Network]]] = {
    "vit": (vit.Config, vit.VisionTransformer),
    "convnext": (convnext.Config, convnext.ConvNeXt),
    "resnet": (resnet.Config, resnet.ResNet),
}


def build(architecture: Architecture, *, seed: int = 0) -> Network:
    """Build a backbone on torch's default device with initial values from the seed."""
    network: Any = KINDS[architecture.kind][1]
    built: Network = network(architecture, seed=seed)
    return built


def described(plain: Mapping[str, Any]) -> Architecture:
    """Read settings; those that name no kind are a transformer's, as before there were others.

    Raises:
        UserError: for a kind that is not known, or settings that it has not.
    """
    kind = str(plain.get("kind", "vit"))
    if kind not in KINDS:
        raise unknown_name("kind of backbone", kind, list(KINDS))
    architecture: Architecture = from_plain(KINDS[kind][0], plain)
    return architecture
