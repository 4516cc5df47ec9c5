"""The two image sets that come with the package, so that everything can be tried offline in a minute.

- `fashion`: Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747, MIT), 10,000 train and 2,000 test photos of 28x28 gray
  pixels in 10 balanced classes.
- `fashion-placed`: the same photos, each at one fixed random position of a black 40x40 canvas. Raw pixels no longer
  line up, so that a k-NN on them loses its unfair advantage and invariance has to be learned.
- `emoji`: 1,911 emoji in two drawing styles (Noto, Apache-2.0; Twemoji, CC-BY-4.0), 64x64 RGB on white: the same
  thing drawn twice is an exact ground truth for retrieval across domains.

Licences: assets/NOTICE.
"""

import json
import zipfile
from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch

from dinokit.core.messages import UserError, unknown_name
from dinokit.images.decode import decode
from dinokit.sources.base import Source, in_memory
from dinokit.sources.location import choose_split

PREFIX = "demo:"
CANVAS = 40  # pixels; side of a fashion-placed image
_PLACEMENT_SEED = 28_40  # part of the definition of fashion-placed: never change
_ASSETS = files("dinokit.sources") / "assets"
SPLITS = {"demo:fashion": ("train", "test"), "demo:fashion-placed": ("train", "test"), "demo:emoji": ()}
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_STYLES = ("noto", "twemoji")


@lru_cache(maxsize=2)  # training, measuring and the report look at one set: to decode it takes seconds
def open_demo(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a demo set; gray images are repeated for 3 channels, any other number is refused."""
    if spec not in SPLITS:
        raise unknown_name("demo set", spec, SPLITS)
    chosen = choose_split(spec, split, SPLITS[spec])
    if channels not in (1, 3):
        raise UserError(f"{spec} has images of 1 or 3 channels, not {channels}; give 1 or 3")
    return _emoji(spec, channels) if chosen is None else _fashion(spec, chosen, channels)


def _fashion(spec: str, split: str, channels: int) -> Source:
    with (_ASSETS / "fashion_mnist_10k_2k.npz").open("rb") as file, np.load(file) as arrays:
        gray, labels = arrays[f"x_{split}"], arrays[f"y_{split}"].astype(np.int64)  # [sample, 28, 28]
    samples, side, _ = gray.shape
    if spec == "demo:fashion-placed":
        # NumPy itself, not core.seed: the set stays the same pictures whatever becomes of the streams of training
        generate = np.random.default_rng((_PLACEMENT_SEED, SPLITS[spec].index(split)))
        top, left = generate.integers(0, CANVAS - side + 1, size=(2, samples, 1, 1))
        canvas = np.zeros((samples, CANVAS, CANVAS), dtype=np.uint8)
        rows, columns = top + np.arange(side)[:, None], left + np.arange(side)  # [sample, side, 1], [sample, 1, side]
        canvas[np.arange(samples)[:, None, None], rows, columns] = gray
        gray = canvas
    images = torch.from_numpy(gray)[:, None].expand(-1, channels, -1, -1)
    keys = [f"{spec.removeprefix(PREFIX)}/{split}/{index:05d}" for index in range(samples)]
    return in_memory(images, name=spec, keys=keys, labels=labels, classes=_CLOTHES)


def _emoji(spec: str, channels: int) -> Source:
    with (_ASSETS / "emoji_noto_twemoji_64.zip").open("rb") as file, zipfile.ZipFile(file) as archive:
        entries = json.loads(archive.read("labels.json"))
        keys = [f"{style}/{entry['id']}.webp" for style in _STYLES for entry in entries]
        images = torch.stack([decode(archive.read(key), channels=channels) for key in keys])
    return in_memory(
        images,
        name=spec,
        keys=keys,
        labels=np.tile(np.arange(len(entries)), len(_STYLES)),
        classes=tuple(entry["name"] for entry in entries),
        domains=np.repeat(np.array(_STYLES), len(entries)),
    )
