"""What does a step of the detector cost beside transformers' plain DETR? Both read the same features from disk.

    python benchmarks/decoder.py [--rounds 5] [--steps 3] [--threads 2] [--sides ours detr]

Eight images of 32 x 43 places of 4 x 384 numbers (ViT-S/16 at 512 pixels), seven objects of 80 classes each. Ours is
`small`: 2 layers of encoder, proposals on three grids, 3 of decoder with BoxRPB, 100 queries one-to-one and 100
one-to-many, matching and losses of all layers, gradients, AdamW. Theirs is DetrEncoder and DetrDecoder at the same
layers, width, tokens and 200 queries, with its own heads and its loss of all layers; it knows neither proposals nor
boxes within its layers. Every side and round is a process of its own, in turn; peak memory is that of the process.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sides import peak_memory
from torch import Tensor, nn

from dinokit.core.device import keep_freed_memory

ROWS, COLUMNS, PATCH, WIDTH, CLASSES, IMAGES, OBJECTS = 32, 43, 16, 4 * 384, 80, 8, 7
SIDES = ("ours", "detr")
FIGURES = ("seconds", "processor", "memory")
Step = Callable[[], float]


def main() -> None:
    """Time all sides in turn, and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--features", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measured(args.only, args.features, steps=args.steps, threads=args.threads)))
        return
    found: dict[str, list[dict[str, float]]] = {side: [] for side in args.sides}
    with tempfile.TemporaryDirectory() as folder:
        draw = np.random.default_rng(0)
        for image in range(IMAGES):
            np.save(Path(folder) / f"{image}.npy", draw.standard_normal((WIDTH, ROWS, COLUMNS)).astype(np.float16))
        for _ in range(args.rounds):
            for side in args.sides:
                words = ["--only", side, "--features", folder, "--steps", str(args.steps)]
                words += ["--threads", str(args.threads)]
                said = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
                found[side].append(json.loads(said.stdout.splitlines()[-1]))
    for side, lines in found.items():
        seconds, processor, memory = (statistics.median(line[name] for line in lines) for name in FIGURES)
        weights = lines[0]["weights"] / 1e6
        print(
            f"{side}: {seconds:.3f} s a step, {processor:.3f} of processors, {memory:.2f} GB, {weights:.2f} M weights"
        )
    if len(args.sides) == 2:
        for name in FIGURES:
            ours, theirs = (statistics.median(line[name] for line in found[side]) for side in args.sides)
            print(f"{name}: {ours / theirs:.2f} of {args.sides[1]}")


def measured(side: str, features: Path, *, steps: int, threads: int) -> dict[str, float]:
    """Return the median seconds of a step and the peak memory of this process, in GB."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    keep_freed_memory()  # as every process of dinokit does: theirs gains by it, too
    network, step = ours(features) if side == "ours" else detr(features)
    took = []
    for _ in range(steps + 1):  # the first one warms up
        began = time.perf_counter(), time.process_time()
        step()
        took.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    seconds, processor = (statistics.median(column) for column in zip(*took[1:], strict=True))
    weights = sum(each.numel() for each in network.parameters())
    return {"seconds": seconds, "processor": processor, "memory": peak_memory() / 1e3, "weights": weights}


def truth() -> list[tuple[Tensor, Tensor]]:
    """Draw boxes, by corners in pixels, and classes of every image."""
    draw = torch.Generator().manual_seed(0)
    size = torch.tensor([COLUMNS * PATCH, ROWS * PATCH], dtype=torch.float32)
    found = []
    for _ in range(IMAGES):
        sides = (0.05 + 0.45 * torch.rand(OBJECTS, 2, generator=draw)) * size
        first = torch.rand(OBJECTS, 2, generator=draw) * (size - sides)
        found.append((torch.cat([first, first + sides], 1), torch.randint(CLASSES, (OBJECTS,), generator=draw)))
    return found


def read(features: Path) -> list[Tensor]:
    """Read the features of a batch."""
    return [torch.from_numpy(np.load(features / f"{image}.npy")).float() for image in range(IMAGES)]


def ours(features: Path) -> tuple[nn.Module, Step]:
    """Return the detector of `small` and its step."""
    from dinokit.dense.detr.learning import judged
    from dinokit.dense.detr.matching import Objects
    from dinokit.dense.detr.network import Detector, Maps
    from dinokit.dense.detr.recipe import RECIPES

    recipe = RECIPES["small"]
    network = Detector(recipe.sizes(width=WIDTH, stride=PATCH, classes=CLASSES)).train()
    loss, optimiser = judged(recipe), torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.05)
    objects = [Objects(*each) for each in truth()]
    sizes = torch.tensor([[COLUMNS * PATCH, ROWS * PATCH]] * IMAGES, dtype=torch.float32)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        total = loss(network(Maps(read(features), sizes)), objects, 0).total
        total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        optimiser.step()
        return total.item()

    return network, step


class Plain(nn.Module):
    """DETR on features, of transformers' parts."""

    def __init__(self) -> None:
        super().__init__()
        from transformers.models.detr import modeling_detr as parts

        self.config = parts.DetrConfig(
            d_model=256,
            encoder_layers=2,
            decoder_layers=3,
            encoder_ffn_dim=1024,
            decoder_ffn_dim=1024,
            encoder_attention_heads=8,
            decoder_attention_heads=8,
            num_queries=200,
            num_labels=CLASSES,
            dropout=0.0,
            auxiliary_loss=True,
        )
        self.project = nn.Conv2d(WIDTH, 256, 1)
        self.where = parts.DetrSinePositionEmbedding(128, normalize=True)
        self.encoder, self.decoder = parts.DetrEncoder(self.config), parts.DetrDecoder(self.config)
        self.queries = nn.Embedding(200, 256)
        self.classes = nn.Linear(256, CLASSES + 1)
        self.boxes = parts.DetrMLPPredictionHead(256, 256, 4, 3)

    def forward(self, maps: Tensor, labels: list[dict[str, Tensor]]) -> Tensor:
        """Return the loss of a batch."""
        from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

        tokens = self.project(maps).flatten(2).transpose(1, 2)
        places = self.where(shape=torch.Size([IMAGES, 256, ROWS, COLUMNS]), device=maps.device, dtype=maps.dtype)
        places = places.flatten(2).transpose(1, 2)
        seen = self.encoder(inputs_embeds=tokens, spatial_position_embeddings=places).last_hidden_state
        position = self.queries.weight.expand(IMAGES, -1, -1)
        found = self.decoder(
            inputs_embeds=torch.zeros_like(position),
            encoder_hidden_states=seen,
            spatial_position_embeddings=places,
            object_queries_position_embeddings=position,
        )
        layers = found.intermediate_hidden_states
        logits, boxes = self.classes(layers), self.boxes(layers).sigmoid()
        loss, _, _ = ForObjectDetectionLoss(logits[-1], labels, maps.device, boxes[-1], self.config, logits, boxes)
        return loss


def detr(features: Path) -> tuple[nn.Module, Step]:
    """Return transformers' DETR and its step."""
    network = Plain().train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.05)
    size = torch.tensor([COLUMNS * PATCH, ROWS * PATCH] * 2, dtype=torch.float32)
    labels = []
    for corners, classes in truth():
        shares = corners / size
        centred = torch.cat([(shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]], 1)
        labels.append({"class_labels": classes, "boxes": centred})

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        total = network(torch.stack(read(features)), labels)
        total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        optimiser.step()
        return total.item()

    return network, step


if __name__ == "__main__":
    main()
