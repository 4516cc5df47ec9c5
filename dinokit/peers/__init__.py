"""Models of other libraries behind our interface, so that every evaluation can compare them with ours."""

from collections.abc import Callable

from dinokit.peers import huggingface, open_clip, timm
from dinokit.peers.peer import Peer

LIBRARIES: dict[str, Callable[[str], Peer]] = {
    "timm": timm.load,
    "hf": huggingface.load,
    "open_clip": open_clip.load,
}
