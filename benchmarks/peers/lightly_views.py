"""LightlyTrain's DINOv2 views of some JPEGs: prints seconds of wall and of processor time of the second pass.

Run by benchmarks/loader.py in an environment of its own; nothing of dinokit imports it.
"""

import sys
import time

import cv2
import numpy as np
import torch
from lightly_train._methods.dinov2.dinov2_transform import (
    DINOv2ViTLocalViewTransformArgs,
    DINOv2ViTTransform,
    DINOv2ViTTransformArgs,
)
from PIL import Image


def main() -> None:
    """Make the views of the named files twice and time the second pass."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    local = DINOv2ViTLocalViewTransformArgs(view_size=(96, 96))
    transform = DINOv2ViTTransform(DINOv2ViTTransformArgs(local_view=local, num_channels=3))
    for _ in range(2):
        wall, processor = time.perf_counter(), time.process_time()
        views = [transform({"image": np.asarray(Image.open(path).convert("RGB"))}) for path in sys.argv[1:]]
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    sizes = sorted(view["image"].shape[-1] for view in views[0])
    assert sizes == [96] * 8 + [224] * 2, sizes
    print(wall, processor)


if __name__ == "__main__":
    main()
