"""`dinokit embed`: write the features of every image of a source"""

from pathlib import Path
from typing import Any

from dinokit.core import device as devices
from dinokit.core.messages import UserError, info
from dinokit.curation.pool import Pool
from dinokit.features.embed import Feature
from dinokit.features.embed import embed as embed_source
from dinokit.run import ranks


def embed(
    *,
    model: str,
    data: str,
    out: Path,
    split: str | None = None,
    feature: Feature = "cls",
    heads: int | None = None,
    device: str = "auto",
    precision: devices.Precision = "auto",
    batch: int | None = None,
    workers: int | None = None,
    processes: int | None = None,
) -> Pool | None:
    """Write the features of every image of a source, or of those that are new: OUT/part-*.npy beside part-*.parquet.

    The same command again goes on after a stop, and embeds images that were added; those whose name it knows are not
    looked at again. Started by torchrun or srun, the ranks share the work.

    Args:
        model: a run folder, RUN/checkpoints/STEP, a weights file, a name that `dinokit models` lists; or a peer:
            timm/NAME, hf/NAME, open_clip/NAME.
        data: a folder of images, a demo: name, or anything else that `pretrain` takes.
        out: the folder to write.
        split: of the images; left out, train, or all where there are no splits.
        feature: cls, or cls+patches: CLS and the mean of the patches, one after the other. Of length 1 as a whole.
        heads: of attention, for weights that do not say it, such as a bare file of a width that no release has.
        device: auto, cpu, cuda or mps.
        precision: fp32, bf16, or auto: bf16 where the hardware multiplies it natively; its agreement is then said.
        batch: images in one forward pass; left out, what suits the device.
        workers: threads that read in each process; left out, what suits the device.
        processes: that share the work; left out, one per GPU of this machine.
    """
    for name, value, least in (("batch", batch, 1), ("workers", workers, 0)):
        if value is not None and value < least:
            raise UserError(f"--{name} must be at least {least}, got {value}")
    options: dict[str, Any] = {"split": split, "feature": feature, "heads": heads, "precision": precision}
    options |= {"batch": batch, "workers": workers}
    model, data = str(model), str(data)
    given = {"model": model, "data": data, "out": out, "device": device, **options}
    with ranks.sharing(ranks.words("embed", **given), processes=processes, device=device) as where:
        found = embed_source(model, data, out, device=where, **options)
    if found is not None:
        unread = found.stamp["unreadable"]
        info(f"{len(found):,} images · {found.vectors.dim} numbers each · {unread} unreadable · {out}")
    return found
