"""Where does the time of tracking go? Backbone and propagation, frame by frame, and the peak of memory.

    python benchmarks/tracking.py [--frames 100] [--height 480] [--width 854] [--model vits16] [--radius 12]

Frames are a texture that drifts; the network is random, which changes no time. Every frame is resized, encoded,
propagated and read out as `dinokit evaluate tracking` does; medians per frame and sums over all.
"""

import argparse
import resource
import statistics
import time

import numpy as np
import torch

from dinokit.dense.maps import frozen
from dinokit.dense.tracking import Rule, Tracker, one_hot, read_out
from dinokit.evaluation.tracking import patches
from dinokit.models.architecture import VARIANTS
from dinokit.models.vit import VisionTransformer


def main() -> None:
    """Print a row per part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=854)
    parser.add_argument("--model", default="dinov3_vits16")
    parser.add_argument("--radius", type=int, default=12, help="patches; -1: none")
    arguments = parser.parse_args()
    backbone = VisionTransformer(VARIANTS[arguments.model])
    texture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 2048, 2048), dtype=np.uint8))
    mask = np.zeros((arguments.height, arguments.width), dtype=np.uint8)
    mask[100:200, 100:300], mask[220:400, 400:500] = 1, 2
    rule = Rule(radius=None if arguments.radius < 0 else arguments.radius)
    before = _peak()
    seconds: dict[str, list[float]] = {"backbone": [], "propagation": [], "read-out": []}
    tracker = None
    with frozen(backbone):
        for number in range(arguments.frames):
            image = texture[:, 2 * number :][:, : arguments.height, 3 * number :][..., : arguments.width]
            features, taken = _timed(lambda image=image: patches(backbone, image, short=arguments.height))
            seconds["backbone"].append(taken)
            if tracker is None:
                tracker = Tracker(rule, features, one_hot(mask, [0, 1, 2], tuple(features.shape[:2])))
                continue
            labels, taken = _timed(lambda features=features, tracker=tracker: tracker.follow(features))
            seconds["propagation"].append(taken)
            _, taken = _timed(lambda labels=labels: read_out(labels, [0, 1, 2], mask.shape, mode="bilinear"))
            seconds["read-out"].append(taken)
    whole = sum(map(sum, seconds.values()))
    print(f"{arguments.frames} frames of {arguments.width} x {arguments.height}, {torch.get_num_threads()} threads")
    print("part | ms per frame, median | seconds | share")
    for part, each in seconds.items():
        print(f"{part} | {1e3 * statistics.median(each):.0f} | {sum(each):.1f} | {sum(each) / whole:.1%}")
    print(f"peak memory {_peak():.0f} MB, {_peak() - before:.0f} MB of it while tracking")


def _timed(act):  # type: ignore[no-untyped-def]
    began = time.perf_counter()
    result = act()
    return result, time.perf_counter() - began


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
