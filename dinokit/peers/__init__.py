"""Models of other libraries behind our interface, so that every evaluation can compare them with ours."""

from dinokit.peers import huggingface, open_clip, timm

LIBRARIES = {
    "timm": timm.load,
    "hf": huggingface.load,
    "open_clip": open_clip.load,
}
