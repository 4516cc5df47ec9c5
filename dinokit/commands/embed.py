"""`dinokit embed`: write the features of every image of a source"""

from pathlib import Path

from dinokit.core import device as devices
from dinokit.core.messages import info
from dinokit.dense.embedding import Embeddings
from dinokit.dense.embedding import embed as embed_source


def embed(
    *,
    model: str,
    data: str,
    out: Path,
    heads: int | None = None,
    device: str = "auto",
    precision: devices.Precision = "auto",
) -> Embeddings:
    """Write the features of every image of a source: OUT/embeddings.npy, one row per line of OUT/manifest.jsonl.

    Args:
        model: a run folder, RUN/checkpoints/STEP, a weights file, a name that `dinokit models` lists; or a peer:
            timm/NAME, hf/NAME, open_clip/NAME.
        data: a folder of images, a demo: name, or anything else that `pretrain` takes.
        out: the folder to write.
        heads: of attention, for weights that do not say it, such as a bare file of a width that no release has.
        device: auto, cpu, cuda or mps.
        precision: fp32, bf16, or auto: bf16 where the hardware multiplies it natively; its agreement is then said.
    """
    found = embed_source(model, data, out, heads=heads, device=devices.choose(device), precision=precision)
    info(f"{len(found.cls):,} images · {found.cls.shape[1]} numbers each · {len(found.bad)} unreadable · {out}")
    return found
