"""From the words of a command to a studio that can be asked, by a browser or for an export."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dinokit.core.messages import UserError, info
from dinokit.search import weights
from dinokit.search.index import Index as Kept
from dinokit.sources.source import open_source
from dinokit.studio import images
from dinokit.studio.images import Images
from dinokit.studio.networks import Networks
from dinokit.studio.search import Index
from dinokit.studio.seeing import Seeing

TOLD = ("id", "name", "patch", "dim", "heads", "blocks", "steps")  # of each model
PATCHES = 48  # of the short side where no size is given: 768 pixels in patches of 16


@dataclass(frozen=True)
class Opened:
    """A studio that nobody has asked anything yet."""

    seeing: Seeing
    index: Index | None  # of its images
    title: str

    def about(self) -> dict[str, Any]:
        """Return what a page is told at first."""
        models = self.seeing.networks.models.values()
        return {
            "title": self.title,
            "models": [{name: asdict(model)[name] for name in TOLD} for model in models],
            "count": len(self.seeing.images),
            "size": self.seeing.size,
            "upload": {"bytes": images.BYTES, "pixels": images.PIXELS, "kept": images.UPLOADS},
            "index": self.index is not None and next(iter(self.seeing.networks.models)) in self.index.models,
        }

    def close(self) -> None:
        """End the thread of the network."""
        self.seeing.passes.close()


def opened(
    models: Mapping[str, str],
    data: str,
    *,
    split: str | None = None,
    index: Path | None = None,
    size: int | None = None,
    heads: int | None = None,
    device: torch.device,
) -> Opened:
    """Open models and images.

    Args:
        models: what `load` takes -> how it is called in the page.
        data: whatever `open_source` takes.
        index: of the same images by one of the models, or a pool.
        size: pixels of the short side; None: 48 patches of the first model.

    Raises:
        UserError: if something cannot be opened, or does not belong together.
    """
    if size is not None and size < 1:
        raise UserError(f"--size must be at least 1, got {size}")
    networks = Networks(list(models.items()), device=device, heads=heads)
    first = networks.open(*networks.at(next(iter(networks.models)), None))
    source = open_source(data, split=split, channels=first.channels, white=first.pixels.white)
    pool = None if index is None else Index(Kept(index), source, networks)
    seeing = Seeing(Images(source), networks, size=size or PATCHES * first.patch_size)
    return Opened(seeing, pool, source.name)


def of_index(
    folder: Path,
    *,
    model: str | None = None,
    size: int | None = None,
    device: torch.device,
) -> Opened:
    """Open an index with the images that it is of.

    Args:
        model: whatever `load` takes, where the weights are no longer where they were; None: those of the index.
        size: pixels of the short side, where patches are searched; None: 48 patches.

    Raises:
        UserError: if something cannot be opened, or has changed.
    """
    kept = Kept(folder)
    heads = kept.pools[0].stamp.get("heads")
    with weights.finding(model):
        networks = Networks([(model or kept.about.model, Path(kept.about.model).name)], device=device, heads=heads)
        first = networks.open(*networks.at(next(iter(networks.models)), None))
    source, rows = kept.images(channels=first.channels)
    if len(rows) < len(kept):
        gone = f"{len(kept) - len(rows):,} images of {folder} are gone"
        info(f"{gone}; `dinokit search remove {folder} --gone` leaves them out of all searches")
    seeing = Seeing(Images(source), networks, size=size or PATCHES * first.patch_size)
    return Opened(seeing, Index(kept, source, networks, rows), str(folder))
