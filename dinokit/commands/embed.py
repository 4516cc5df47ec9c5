"""`dinokit embed`: write the features of every image of a source"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinokit.checkpoints.load import check_written
from dinokit.core import device as devices
from dinokit.core.messages import UserError, info
from dinokit.curation.pool import Pool
from dinokit.dense.arrays import Arrays
from dinokit.dense.embed import embed_dense
from dinokit.dense.pixels import Sampling, Upsample
from dinokit.features.embed import Feature
from dinokit.features.embed import embed as embed_source
from dinokit.run import ranks


def embed(
    *,
    model: str,
    data: str,
    out: Path,
    split: str | None = None,
    feature: Feature | None = None,
    dense: bool = False,
    size: int | None = None,
    stride: int | None = None,
    shifts: int | None = None,
    upsample: Upsample | None = None,
    heads: int | None = None,
    device: str = "auto",
    precision: devices.Precision = "auto",
    batch: int | None = None,
    workers: int | None = None,
    processes: int | None = None,
) -> Pool | Arrays | None:
    """Write the features of every image of a source, or of those that are new: OUT/part-*.npy beside part-*.parquet.

    The same command again goes on after a stop, and embeds images that were added; those whose name it knows are not
    looked at again. Started by torchrun or srun, the ranks share the work.

    With --dense the features of every place of an image, an array each: OUT/part-*/*.npy, float16 [rows, columns, dim].
    Python opens them with dinokit.dense.arrays.Arrays(OUT). That takes disk, which is said before the work; a source to
    which images were added needs a new folder.

    Args:
        model: a run folder, RUN/checkpoints/STEP, a weights file, a name that `dinokit models` lists; or a peer:
            timm/NAME, hf/NAME, open_clip/NAME.
        data: a folder of images, a demo: name, or anything else that `pretrain` takes.
        out: the folder to write.
        split: of the images; left out, train, or all where there are no splits.
        feature: cls, or cls+patches: CLS and the mean of the patches, one after the other; cls+gem: their generalised
            mean (power 4). Of length 1 as a whole. Left out: cls.
        dense: features of places instead, as the model gives them: of all patches, or see --stride.
        size: dense: pixels of the short side as the model sees it; left out, as it is. Large images are seen window by
            window.
        stride: dense: pixels of the image from one vector to the next, 1 for every pixel; left out, one per patch.
        shifts: dense: see the image on K x K grids, each a K-th of a patch further on: vectors a K-th of a patch apart,
            at K x K times the cost. Left out: 1.
        upsample: dense, with a stride: bilinear, or bilateral, guided by the colours of the image. Left out: bilinear.
        heads: of attention, for weights that do not say it, such as a bare file of a width that no release has.
        device: auto, cpu, cuda or mps.
        precision: fp32, bf16, or auto: bf16 where it is faster; its agreement is then said.
        batch: images in one forward pass; left out, what suits the device.
        workers: threads that read in each process; left out, what suits the device.
        processes: that share the work; left out, one per GPU of this machine.
    """
    of_images: dict[str, Any] = {"feature": feature, "batch": batch, "workers": workers}
    of_places: dict[str, Any] = {"size": size, "stride": stride, "shifts": shifts, "upsample": upsample}
    _check(of_images, of_places, dense=dense)
    model, data = check_written(model), str(data)
    options: dict[str, Any] = {"split": split, "heads": heads, "precision": precision}
    given = {"model": model, "data": data, "out": out, "device": device, "dense": dense or None, **options}
    words = ranks.words("embed", **given, **of_images, **of_places)
    if dense:
        chosen = {name: value for name, value in of_places.items() if value is not None}
        options["sampling"] = Sampling(**{"stride": None, **chosen})
    else:
        options |= of_images | {"feature": feature or "cls"}
    with ranks.sharing(words, processes=processes, device=device) as where:
        write = embed_dense if dense else embed_source
        found: Pool | Arrays | None = write(model, data, out, device=where, **options)
    if found is not None:
        numbers = f"{found.stamp['dim']} numbers {'a place' if dense else 'each'}"
        info(f"{len(found):,} images · {numbers} · {found.stamp['unreadable']} unreadable · {out}")
    return found


def _check(of_images: Mapping[str, Any], of_places: Mapping[str, Any], *, dense: bool) -> None:
    """Refuse numbers that are too small, and what does nothing: options of places without --dense, of images with."""
    for name, least in (("batch", 1), ("workers", 0)):
        if of_images[name] is not None and of_images[name] < least:
            raise UserError(f"--{name} must be at least {least}, got {of_images[name]}")
    for name, value in (of_images if dense else of_places).items():
        if value is not None:
            said = "does nothing with --dense" if dense else "is for --dense alone"
            raise UserError(f"--{name} {said}; leave {'it out' if dense else 'it out or add --dense'}")
    if dense and of_places["stride"] is None and of_places["upsample"] is not None:
        raise UserError("--upsample goes from patches to places between them; give --stride, such as 1, too")
