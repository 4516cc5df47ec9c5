"""The threshold of duplicates that suits an embedding: from images and altered copies of them.

A published threshold holds for the embeddings of one model. Here some images of the pool are altered as copies on the
web are - resized, encoded again, cropped, blurred, mirrored, marked, brightened - and embedded. At a threshold t

    R(t)   is the share of the copies whose cosine with their image is larger,
    B(t)   that of the images of which some other image of the whole pool is nearer than t,
    n(t) = -log(1 - B(t))   how many such images there are on average, if they are spread by chance.

If every image had one copy, R were found and n beside it, and the best threshold is the one of the largest F, the
harmonic mean of R and of the share R / (R + n) of what was found that is right:

    F(t) = 2 R / (R + 1 + n)

Other images of the pool that are copies count against it, which makes the threshold higher. Chains, by which images
that do not resemble each other are one group, do not count, which makes it lower (measured: docs/log.md, 2026-11-29).
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Float64, UInt8
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from dinokit.core import dist
from dinokit.core.files import read_json, write_json
from dinokit.core.messages import BadImage, UserError, info, is_main, progress, warn
from dinokit.core.seed import generator
from dinokit.curation.neighbours import Edges, Ordered, Search, places_of
from dinokit.curation.pool import Pool
from dinokit.images import intensity

Embed = Callable[[Sequence[intensity.AnyImage]], Float[np.ndarray, "image dim"]]  # by the model of the pool

IMAGES = 256  # that are altered
SIDE = 512  # pixels that their short side keeps at least
OTHERS = 1024  # whose nearest other image is looked for
TRUSTED = 0.75  # F, below which it is doubted: two of five found are wrong, or two of five are missed
STEPS = 1000  # thresholds that are looked at, from the least cosine to 1: of some models all lie above 0.9


@dataclass(frozen=True)
class Proposal:
    """A threshold, and the curves that say so."""

    threshold: float
    grid: Float64[np.ndarray, " threshold"]
    copies: dict[str, Float64[np.ndarray, " threshold"]]  # by alteration: the share of copies that are nearer
    nearest: Float64[np.ndarray, " threshold"]  # the share of images of which some other image is
    random: Float64[np.ndarray, " threshold"]  # the share of pairs of images
    score: Float64[np.ndarray, " threshold"]  # F

    def plain(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        curves = {"nearest other image": self.nearest, "random pairs": self.random, "F": self.score}
        best = int(np.searchsorted(self.grid, self.threshold))
        return {
            "threshold": self.threshold,
            "copies found": {name: float(curve[best]) for name, curve in self.copies.items()},
            "images with another one nearer": float(self.nearest[best]),
            "grid": self.grid.tolist(),
            "copies": {name: curve.tolist() for name, curve in self.copies.items()},
            **{name: curve.tolist() for name, curve in curves.items()},
        }


def proposed(pool: Pool, embed: Embed | None, *, seed: int, path: Path, device: torch.device) -> float:
    """Return the threshold for a pool, written with its curves to `path`; all ranks must call together.

    Raises:
        UserError: if there is no model to embed with, or none of the images can be altered.
    """
    if is_main() and not path.exists():
        if embed is None:
            raise UserError("threshold auto needs the model that the pool was embedded with; give a number instead")
        write_json(path, _proposal(pool, embed, seed, device).plain())
    dist.barrier()
    found = read_json(path)
    shares = " · ".join(f"{name} {share:.0%}" for name, share in found["copies found"].items())
    info(f"threshold {found['threshold']:.4f} · copies above it: {shares}")
    if max(found["F"]) < TRUSTED:
        told = f"it tells copies from other images poorly (F {max(found['F']):.2f}, 1 is the best)"
        warn(f"the model of {pool.folder}: {told}, so much will be wrong; embed with a better one, or give a threshold")
    return float(found["threshold"])


def alterations(
    image: intensity.Image, *, draw: np.random.Generator
) -> dict[str, UInt8[torch.Tensor, "channel row column"]]:
    """Return altered copies of a colour image, by what was done."""
    picture = Image.fromarray(intensity.for_display(image[None])[0].permute(1, 2, 0).numpy())
    width, height = picture.size
    share = draw.uniform(0.7, 0.9)
    left, top = (draw.random(2) * (1 - share) * (width, height)).astype(int).tolist()
    box = (left, top, left + max(int(share * width), 1), top + max(int(share * height), 1))
    factor = draw.uniform(0.3, 0.7)
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=int(draw.integers(20, 60)))
    found = {
        "resized": picture.resize((max(int(width * factor), 1), max(int(height * factor), 1))),
        "encoded again": Image.open(encoded),
        "cropped": picture.crop(box),
        "blurred": picture.filter(ImageFilter.GaussianBlur(0.01 * max(width, height) * draw.uniform(0.5, 1.5))),
        "mirrored": ImageOps.mirror(picture),
        "marked": _marked(picture, draw),
        "brightened": ImageEnhance.Brightness(picture).enhance(draw.uniform(1.2, 1.6)),
    }
    return {name: _tensor(each) for name, each in found.items()}


def choose(
    copies: dict[str, Float32[np.ndarray, " copy"]],
    nearest: Float32[np.ndarray, " image"],
    random: Float32[np.ndarray, " pair"],
) -> Proposal:
    """Choose the threshold of the largest F, of equal ones the highest.

    Args:
        copies: by alteration, cosines of copies and their images.
        nearest: the cosine of some images and the nearest other one.
        random: of pairs of images.
    """
    least = min(float(found.min(initial=1)) for found in (*copies.values(), random))
    grid = np.linspace(min(least, 0.999), 1, STEPS)
    shares = {name: _above(found, grid) for name, found in copies.items()}
    right, taken = np.mean(list(shares.values()), axis=0), _above(nearest, grid)
    # of all images, somewhat fewer than the next one says
    wrong = -np.log(np.maximum(1 - taken, 0.5 / max(len(nearest), 1)))
    score = 2 * right / (right + 1 + wrong)
    best = len(score) - 1 - int(score[::-1].argmax())
    return Proposal(float(grid[best]), grid, shares, taken, _above(random, grid), score)


def _proposal(pool: Pool, embed: Embed, seed: int, device: torch.device) -> Proposal:
    source = pool.images()
    order = generator(seed, 2).permutation(len(pool))
    found = dict[str, list[float]]()
    for row in progress(order[:IMAGES].tolist(), IMAGES):
        try:
            altered = alterations(source.read(row, min_side=SIDE), draw=generator(seed, 3, row))
        except BadImage:
            continue  # it was whole when the pool was embedded; there are others
        cosine = _cosines(pool.vectors.take(np.array([row])), embed(list(altered.values())))
        for name, value in zip(altered, cosine.tolist(), strict=True):
            found.setdefault(name, []).append(value)
    if not found:
        raise UserError(f"threshold auto finds no image of {pool.source} that can be read; give a number instead")
    copies = {name: np.array(values, dtype=np.float32) for name, values in found.items()}
    few = np.sort(order[:OTHERS])
    search = Search(Ordered.single(pool.vectors, few), Ordered.single(pool.vectors), k=2, device=device)
    edges = Edges.concatenate([search.block(number) for number in range(len(search))])
    edges = edges.some(edges.rows != edges.others)
    best = edges.similarity[places_of(edges.rows) == 0]  # two are left where copies come before the row itself
    unit = Ordered.single(pool.vectors, few).unit(np.arange(len(few)), torch.device("cpu"))
    return choose(copies, best, (unit @ unit.T).numpy()[np.triu_indices(len(few), 1)])


def _cosines(
    original: Float16[np.ndarray, "1 dim"], copies: Float[np.ndarray, "copy dim"]
) -> Float64[np.ndarray, " copy"]:
    one, others = original[0].astype(np.float64), copies.astype(np.float64)
    sizes = np.linalg.norm(others, axis=1) * np.linalg.norm(one)
    found: Float64[np.ndarray, " copy"] = others @ one / np.maximum(sizes, 1e-12)  # a copy may be seen as nothing
    return found


def _above(
    cosines: Float32[np.ndarray, " pair"], grid: Float64[np.ndarray, " threshold"]
) -> Float64[np.ndarray, " threshold"]:
    """Return the share that is larger than each threshold; none of none."""
    larger = len(cosines) - np.searchsorted(np.sort(cosines), grid.astype(np.float32), side="right")
    return larger / max(len(cosines), 1)


def _marked(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
    """Write a half transparent line of letters across a picture."""
    width, height = picture.size
    layer = Image.new("L", picture.size)
    size = max(min(width, height) // 6, 6)
    ImageDraw.Draw(layer).text(
        (width * 0.05, height * draw.uniform(0.1, 0.7)), "sample sample", fill=160, font_size=size
    )
    white = Image.new(picture.mode, picture.size, "white")
    return Image.composite(white, picture, layer)


def _tensor(picture: Image.Image) -> UInt8[torch.Tensor, "channel row column"]:
    values = np.array(picture)
    return torch.from_numpy(values if values.ndim == 3 else values[:, :, None]).permute(2, 0, 1)
