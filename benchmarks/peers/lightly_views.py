"""LightlyTrain's DINOv2 views of some JPEGs: a side of benchmarks/loader.py and against.py.

Run in an environment of its own with `sides` on its path; nothing of dinokit imports it.
"""

import sys

import cv2
import numpy as np
import torch
from lightly_train._methods.dinov2.dinov2_transform import (
    DINOv2ViTLocalViewTransformArgs,
    DINOv2ViTTransform,
    DINOv2ViTTransformArgs,
)
from PIL import Image
from sides import answer


def main() -> None:
    """Make the views of the named files, once for each line on standard input."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    local = DINOv2ViTLocalViewTransformArgs(view_size=(96, 96))
    transform = DINOv2ViTTransform(DINOv2ViTTransformArgs(local_view=local, num_channels=3))

    def work() -> None:
        views = [transform({"image": np.asarray(Image.open(path).convert("RGB"))}) for path in sys.argv[1:]]
        sizes = sorted(view["image"].shape[-1] for view in views[0])
        assert sizes == [96] * 8 + [224] * 2, sizes

    answer(work)


if __name__ == "__main__":
    main()
