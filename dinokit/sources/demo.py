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
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from dinokit.core.errors import unknown_name
from dinokit.images.decode import decode

CANVAS = 40  # pixels; side of a fashion-placed image
_PLACEMENT_SEED = 28_40  # part of the definition of fashion-placed: never change


@dataclass(frozen=True)
class DemoImages:
    """A labelled image set in memory."""

    images: UInt8[Tensor, "sample channel height width"]
    labels: Int64[np.ndarray, "sample"]
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    domains: Shaped[np.ndarray, "sample"] | None = None


_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_STYLES = ("noto", "twemoji")


def names() -> tuple[str, ...]:
    """List the demo sets."""
    return tuple(_LOADERS)


def demo_splits(name: str) -> tuple[str, ...]:
    """List the splits of a demo set, the default first; none for a set in one piece.

    Raises:
        UserError: for an unknown name.
    """
    return _entry(name)[0]


def load_demo(name: str, *, split: str, channels: int) -> DemoImages:
    """Load a demo set.

    Args:
        split: one of `demo_splits(name)`; ignored by a set in one piece.
        channels: 1 or 3; gray images are repeated.
    """
    return _entry(name)[1](split, channels)


def _fashion(split: str, channels: int) -> DemoImages:
    with (files("dinokit.sources") / "assets" / "fashion_mnist_10k_2k.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"].astype(np.int64)
    gray = torch.from_numpy(images)[:, None]  # [sample, 1, 28, 28]
    keys = tuple(f"fashion/{split}/{index:05d}" for index in range(len(images)))
    return DemoImages(gray.expand(-1, channels, -1, -1), labels, _FASHION_CLASSES, keys)


def _fashion_placed(split: str, channels: int) -> DemoImages:
    plain = _fashion(split, channels=1)
    gray = plain.images[:, 0].numpy()
    samples, side, _ = gray.shape
    # NumPy itself, not core.seed: the set stays the same pictures whatever becomes of the streams of training
    generate = np.random.default_rng((_PLACEMENT_SEED, demo_splits("fashion-placed").index(split)))
    top, left = generate.integers(0, CANVAS - side + 1, size=(2, samples, 1, 1))
    canvas = np.zeros((samples, CANVAS, CANVAS), dtype=np.uint8)
    rows, columns = top + np.arange(side)[:, None], left + np.arange(side)  # [sample, side, 1], [sample, 1, side]
    canvas[np.arange(samples)[:, None, None], rows, columns] = gray
    images = torch.from_numpy(canvas)[:, None].expand(-1, channels, -1, -1)
    keys = tuple(key.replace("fashion", "fashion-placed", 1) for key in plain.keys)
    return DemoImages(images, plain.labels, plain.classes, keys)


def _emoji(_: str, channels: int) -> DemoImages:
    path = files("dinokit.sources") / "assets" / "emoji_noto_twemoji_64.zip"
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entries = json.loads(archive.read("labels.json"))
        keys = tuple(f"{style}/{entry['id']}.webp" for style in _STYLES for entry in entries)
        images = torch.stack([decode(archive.read(key), channels=channels) for key in keys])
    labels = np.tile(np.arange(len(entries)), len(_STYLES))
    classes = tuple(entry["name"] for entry in entries)
    return DemoImages(images, labels, classes, keys, domains=np.repeat(np.array(_STYLES), len(entries)))


_LOADERS: dict[str, tuple[tuple[str, ...], Callable[[str, int], DemoImages]]] = {
    "fashion": (("train", "test"), _fashion),
    "fashion-placed": (("train", "test"), _fashion_placed),
    "emoji": ((), _emoji),
}


def _entry(name: str) -> tuple[tuple[str, ...], Callable[[str, int], DemoImages]]:
    if name not in _LOADERS:
        raise unknown_name("demo set", f"demo:{name}", [f"demo:{known}" for known in _LOADERS])
    return _LOADERS[name]
