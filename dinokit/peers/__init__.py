"""Models of other libraries behind our interface, so that every evaluation can compare them with ours."""

from importlib import import_module
from typing import Any

LIBRARIES = ("hf", "open_clip", "timm")  # each is a file of this folder that defines load(name)


def load(library: str, name: str) -> Any:
    """Load a model of a library, as a `peer.Peer`."""
    return import_module(f"{__name__}.{library}").load(name)
