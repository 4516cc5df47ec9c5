"""Seconds that LightlyTrain's own command needs to pretrain a ViT-S/14 by DINOv2 on a folder, once through, batch 8.

Run by benchmarks/step.py in an environment of its own; nothing of dinokit imports it.

    python lightly_step.py PHOTOS OUT PRECISION
"""

import sys
import time

import lightly_train


def main() -> None:
    """Train one pass and print its seconds, start included."""
    photos, out, precision = sys.argv[1:]
    began = time.perf_counter()
    lightly_train.pretrain(
        out=out,
        data=photos,
        model="dinov2/vits14-notpretrained",
        method="dinov2",
        epochs=1,
        batch_size=8,
        num_workers=0,
        devices=1,
        accelerator="cpu",
        precision=precision,
        overwrite=True,
    )
    print(f"seconds {time.perf_counter() - began}")


if __name__ == "__main__":
    main()
