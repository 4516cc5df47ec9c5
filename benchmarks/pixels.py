"""Features of every pixel: what the ways cost, and how well each finds the edges of objects.

    /usr/bin/time -v python benchmarks/pixels.py cost [--side 4096] [--stride 1] [--shifts 1] [--upsample bilinear]
    python benchmarks/scenes.py FETCHED OUT --size 256; python benchmarks/pixels.py edges OUT/things --model RUN

    python benchmarks/pixels.py windows PHOTO --model RUN [--size 1024]

`cost` runs one way over a picture of noise through a ViT of ViT-S's width in patches of 16, of a few blocks and random
weights, and throws the bands away; `time -v` says processor time and peak memory. `edges` fits a logistic regression to
patches that are foreground or background alone, as the foreground protocol does - those of OUT/things/train, or of the
image itself, as if someone had marked them - and judges every pixel of the images of OUT/things/val by the features
each way gives it: intersection over union of foreground and background, mean of both, over all pixels and over those
within a few pixels of an edge of the true mask. No cut-out and no background is on both sides.
`windows` compares features of windows of patches, as large images are seen, with those of the image seen at once.
"""

import argparse
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

import dinokit
from dinokit.dense import strips, upsample
from dinokit.dense.pixels import Sampling, sampled
from dinokit.models.architecture import ARCHITECTURES, build
from dinokit.models.features import Backbone

VOID = 255
LEAST = 4  # patches of foreground alone; images of fewer are left out
BAND = 3  # pixels from an edge of the mask
WAYS = {
    "tiles": Sampling(),
    "shifts 2": Sampling(shifts=2),
    "shifts 4": Sampling(shifts=4),
    "bilateral": Sampling(upsample="bilateral"),
    "shifts 2, bilateral": Sampling(shifts=2, upsample="bilateral"),
}


def main() -> None:
    """Run one of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    cost = verbs.add_parser("cost")
    for name, value in {"side": 4096, "depth": 2, "stride": 1, "shifts": 1}.items():
        cost.add_argument(f"--{name}", type=int, default=value)
    cost.add_argument("--upsample", choices=["bilinear", "bilateral"], default="bilinear")
    edges = verbs.add_parser("edges")
    edges.add_argument("things", type=Path)
    edges.add_argument("--model", default=None, help="left out: an untrained dinov3_vits16")
    edges.add_argument("--size", type=int, default=None, help="pixels of the short side as the model sees it")
    edges.add_argument("--tune", action="store_true", help="try deviations of the Gaussians, on images of train alone")
    windows = verbs.add_parser("windows")
    windows.add_argument("image")
    windows.add_argument("--model", required=True)
    windows.add_argument("--size", type=int, default=1024)
    given = parser.parse_args()
    {"cost": _cost, "edges": _edges, "windows": _windows}[given.verb](given)


def _cost(given: argparse.Namespace) -> None:
    backbone = build(replace(ARCHITECTURES["dinov3_vits16"], depth=given.depth)).eval()
    draw = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, given.side, given.side), dtype=torch.uint8, generator=draw)
    way = Sampling(stride=given.stride, shifts=given.shifts, upsample=given.upsample)
    began, used, rows = time.monotonic(), time.process_time(), 0
    for band in sampled(backbone, image, way).bands():
        rows += len(band)
    seconds = f"{time.monotonic() - began:.0f} s, {time.process_time() - used:.0f} s of processor"
    print(f"{way}: {rows} rows of {given.side // given.stride} x {backbone.dim}, {seconds}")


def _windows(given: argparse.Namespace) -> None:
    """Compare an image seen window by window with the same seen at once."""
    backbone, found = dinokit.load(given.model), []
    for window in (strips.WINDOW, 1 << 20):
        strips.WINDOW = window
        found.append(dinokit.pixels(backbone, given.image, size=given.size, stride=None).array().astype(np.float64))
    one, other = (each / np.linalg.norm(each, axis=2, keepdims=True) for each in found)
    cosines = (one * other).sum(axis=2)
    low = ", ".join(f"{share} % below {np.percentile(cosines, share):.4f}" for share in (1, 5))
    rms = np.sqrt(((found[0] - found[1]) ** 2).mean() / found[1].var())
    print(f"{cosines.shape} patches: cosine {cosines.mean():.4f} in the mean, {low}; rms {rms:.3f} of the deviation")


def _edges(given: argparse.Namespace) -> None:
    backbone = dinokit.load(given.model) if given.model else build(ARCHITECTURES["dinov3_vits16"]).eval()
    train, val = (_pictures(given.things / side, backbone, given.size) for side in ("train", "val"))
    if given.tune:
        heads = [_fitted(backbone, [each], given.size) for each in train]
        for space, colour in product((0.75, 1.0), (0.05, 0.1, 0.2)):
            upsample.SPACE, upsample.COLOUR = space, colour
            way = replace(WAYS["bilateral"], size=given.size)
            print(f"space {space}, colour {colour}:", *_scores(backbone, train, way, heads), flush=True)
        return
    print(f"{len(train)} images of train, {len(val)} of val, {backbone.patch_size} px patches")
    print("fitted on | way | mIoU of all pixels | of those by an edge | processor seconds an image")
    for fitted in ("train", "the image"):
        if fitted == "train":
            heads = [_fitted(backbone, train, given.size)] * len(val)
        else:
            heads = [_fitted(backbone, [each], given.size) for each in val]
        for name, way in WAYS.items():
            used = time.process_time()
            whole, near = _scores(backbone, val, replace(way, size=given.size), heads)
            seconds = (time.process_time() - used) / len(val)
            print(f"{fitted} | {name} | {whole:.1f} | {near:.1f} | {seconds:.2f}", flush=True)


def _pictures(folder: Path, backbone: Backbone, size: int | None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images and masks: 1 foreground, 0 background, 255 neither."""
    found = []
    for path in sorted((folder / "images").iterdir()):
        mask = torch.from_numpy(np.array(Image.open(folder / "masks" / f"{path.stem}.png")))
        image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
        assert backbone.channels == 3, "give a model of colour images"
        share, pure = _pure(mask, *(side // backbone.patch_size for side in (size or len(mask),) * 2))
        if (share[pure] > 0.5).sum() >= LEAST:
            found.append((image.contiguous(), mask))
    return found


def _fitted(
    backbone: Backbone, pictures: list[tuple[torch.Tensor, torch.Tensor]], size: int | None
) -> tuple[torch.Tensor, float]:
    """Fit a logistic regression to patches of one kind."""
    rows, labels = [], []
    for image, mask in pictures:
        features = torch.from_numpy(sampled(backbone, image, Sampling(stride=None, size=size)).array()).float()
        share, pure = _pure(mask, features.shape[0], features.shape[1])
        rows.append(features[pure])
        labels.append(share[pure] > 0.5)
    x, y = torch.cat(rows), torch.cat(labels)
    mean, deviation = x.mean(dim=0), x.std(dim=0)
    found = LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced").fit(
        ((x - mean) / deviation).numpy(), y.numpy()
    )
    weights = torch.from_numpy(found.coef_[0]).float() / deviation
    return weights, float(found.intercept_[0] - weights @ mean)


def _pure(mask: torch.Tensor, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the share of foreground of every patch, and which patches are of one kind."""
    kinds = torch.stack([mask == 1, mask == VOID]).float()
    share, void = functional.adaptive_avg_pool2d(kinds, (rows, columns))
    return share, ((share < 0.01) | (share > 0.99)) & (void == 0)


def _scores(
    backbone: Backbone,
    pictures: list[tuple[torch.Tensor, torch.Tensor]],
    way: Sampling,
    heads: list[tuple[torch.Tensor, float]],
) -> tuple[float, float]:
    counts = torch.zeros(2, 2, 2)  # all or near an edge, class, intersection and union
    for (image, mask), (weights, bias) in zip(pictures, heads, strict=True):
        bands = (torch.from_numpy(band).float() @ weights + bias > 0 for band in sampled(backbone, image, way).bands())
        found, truth = torch.cat(list(bands)), mask == 1
        spread = functional.max_pool2d(torch.stack([truth, ~truth]).float()[None], 2 * BAND + 1, 1, BAND)[0]
        near = (spread[0] > 0) & (spread[1] > 0)
        for row, where in enumerate((mask != VOID, (mask != VOID) & near)):
            for label, (one, other) in enumerate(((found, truth), (~found, ~truth))):
                counts[row, label, 0] += (one & other & where).sum()
                counts[row, label, 1] += ((one | other) & where).sum()
    whole, near_edges = (100 * counts[..., 0] / counts[..., 1]).mean(dim=1).tolist()
    return round(whole, 1), round(near_edges, 1)


if __name__ == "__main__":
    main()
