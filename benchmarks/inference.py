"""Images per second of frozen features: ours beside timm and transformers, the same DINOv3 network in each.

    python benchmarks/inference.py [--models s b] [--sizes 224 512] [--batches 1 16] [--dtypes default ...] [--rounds 5]

Each side is a process of its own, with all cores, and they take turns: forward passes for half a second, one at least,
`rounds` times, so that a noisy machine disturbs all alike. Printed are the median of the rounds and the peak memory of
the process in MB. Weights are random: they change no time. "default" is what each side does unasked: ours as `dinokit
embed`, in bf16 where it is faster, with its cosine to float32; the others in float32. Last, the seconds from a cold
start of Python to the first features of one image.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from sides import answer, compared

from dinokit.core import device as devices

try:
    from dinokit.models.packed import packed
except ModuleNotFoundError:  # an earlier build, which against.py runs
    packed = nullcontext  # type: ignore[assignment]

SIDES = ("ours", "timm", "transformers")
DTYPES = ["fp32", "bf16", "default"]
NAMES = {"s": "small", "b": "base"}
COLD = """
import dinokit, torch
model = dinokit.load({path!r})
print(tuple(model(torch.randn(1, 3, 224, 224)).cls.shape))
"""


def main() -> None:
    """Print one row per model, size, batch and dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 512])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", nargs=5, help=argparse.SUPPRESS)  # one side's own process
    arguments = parser.parse_args()
    if arguments.side:
        _serve(*arguments.side)
        return
    native = devices.has_bf16(torch.device("cpu"))
    print(f"torch {torch.__version__}, {devices.cores()} cores, bf16 in hardware: {'yes' if native else 'no'}")
    print(
        "model size batch dtype |"
        + "|".join(f" {side} img/s, MB " for side in SIDES)
        + "| ours / the faster of the two"
    )
    for dtype in arguments.dtypes:
        for model in arguments.models:
            for size in arguments.sizes:
                for batch in arguments.batches:
                    _row(model, size, batch, dtype, arguments.rounds)
    for model in arguments.models:
        print(f"default, {model}: lowest cosine to fp32 {_agreement(model):.5f}")
        print(f"cold start, {model}: {_cold_start(model):.2f} s to the first features")


def _row(model: str, size: int, batch: int, dtype: str, rounds: int) -> None:
    words = (model, str(size), str(batch), dtype)
    found = compared({side: [sys.executable, __file__, "--side", side, *words] for side in SIDES}, rounds=rounds)
    rate = {side: batch / figure.seconds for side, figure in found.items()}
    cells = "|".join(f" {rate[side]:7.2f} {found[side].memory:6.0f} " for side in SIDES)
    print(f"{' '.join(words)} |{cells}| {rate['ours'] / max(rate['timm'], rate['transformers']):.2f}", flush=True)


def _serve(side: str, model: str, size: str, batch: str, dtype: str) -> None:
    """Pass images forward for each line on standard input."""
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    images = torch.randn(int(batch), 3, int(size), int(size), dtype=kind)
    network, forward = _built(side, model)
    network.eval().to(kind)
    region = devices.autocast(torch.device("cpu"), "auto" if dtype == "default" and side == "ours" else "fp32")
    with region(), packed(network):  # which changes nothing in a peer
        answer(lambda: forward(images), least=0.5)


def _built(side: str, model: str) -> tuple[torch.nn.Module, Callable[[torch.Tensor], Any]]:
    if side == "ours":
        from dinokit.models.architecture import VARIANTS
        from dinokit.models.vit import VisionTransformer

        ours = VisionTransformer(VARIANTS[f"dinov3_vit{model}16"]).requires_grad_(False)
        return ours, ours
    if side == "timm":
        import timm

        peer = timm.create_model(f"vit_{NAMES[model]}_patch16_dinov3", pretrained=False, dynamic_img_size=True)
        return peer, peer.forward_features
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    dim = {"s": 384, "b": 768}[model]
    settings = DINOv3ViTConfig(
        hidden_size=dim, num_attention_heads=dim // 64, intermediate_size=4 * dim, num_register_tokens=4
    )
    network = DINOv3ViTModel(settings)
    return network, lambda images: network(pixel_values=images)


@torch.no_grad()
def _agreement(model: str) -> float:
    network, _ = _built("ours", model)
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    exact = network.eval()(images).cls
    with devices.autocast(torch.device("cpu"), "auto")():
        found = network(images).cls
    return float(torch.cosine_similarity(exact.double(), found.double()).min())


def _cold_start(model: str) -> float:
    """Measure a new Python process: import, load weights from the disk, one image at 224; median of three."""
    from dinokit.checkpoints.layouts import recognise
    from dinokit.models.architecture import VARIANTS
    from dinokit.models.vit import VisionTransformer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(recognise.official(VisionTransformer(VARIANTS[f"dinov3_vit{model}16"])).weights, path)
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", COLD.format(path=str(path))], check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
