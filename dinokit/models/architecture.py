"""Every kind of backbone by its name: what a weights file says it holds, and how that is built.

A new kind is a line in each of the four places below; loading and the untrained baseline of an evaluation then know it.
"""

from dinokit.models import convnext, resnet, vit

Architecture = vit.Config | convnext.Config | resnet.Config
Network = vit.VisionTransformer | convnext.ConvNeXt | resnet.ResNet
KINDS: dict[str, type[Architecture]] = {"vit": vit.Config, "convnext": convnext.Config, "resnet": resnet.Config}


def kind(architecture: Architecture) -> str:
    """Name the kind of a configuration."""
    return next(name for name, config in KINDS.items() if type(architecture) is config)


def build(architecture: Architecture, *, seed: int = 0) -> Network:
    """Build a backbone on torch's default device with initial values from the seed."""
    match architecture:
        case vit.Config():
            return vit.VisionTransformer(architecture, seed=seed)
        case convnext.Config():
            return convnext.ConvNeXt(architecture, seed=seed)
        case resnet.Config():
            return resnet.ResNet(architecture, seed=seed)
