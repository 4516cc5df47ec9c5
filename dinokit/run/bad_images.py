"""The images that a run could not use: each is listed once, and too many of them end the run.

All ranks keep the same count, so that they stop together; rank 0 writes. Lines carry their step, so that a run that
goes back to a checkpoint also forgets what it found later (saving.py), and counts as if it had never been interrupted.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import final

from dinokit.core import dist
from dinokit.core.files import append_jsonl, read_jsonl
from dinokit.core.log import warn
from dinokit.views.loader import BadRecord

ENOUGH_SEEN = 1000  # images, or all there are, before a share of them means anything
ENOUGH_BAD = 10  # images; a few broken files never end a run, however small the folder


@final
class BadImages:
    """The distinct bad images of a run so far, from its bad_images.jsonl.

    Args:
        images: in the source.
        max_ratio: of the distinct images seen that may be bad.
    """

    def __init__(self, path: Path, *, images: int, max_ratio: float) -> None:
        self.path = path
        self.images = images
        self.max_ratio = max_ratio
        self._keys = {str(line.get("key")) for line in read_jsonl(path)}

    def add(self, records: Sequence[BadRecord], *, step: int) -> None:
        """List what is new; all ranks call with the records of all ranks."""
        for record in records:
            if record.key in self._keys:
                continue
            self._keys.add(record.key)
            if dist.is_main():
                append_jsonl(self.path, {"key": record.key, "reason": record.reason, "step": step})
                warn(f"replaced {record.key}: {record.reason}")

    def too_many(self, consumed: int) -> str:
        """Say what is too much after so many images, repetitions included; nothing if it is not."""
        bad, seen = len(self._keys), min(consumed, self.images)
        if bad < ENOUGH_BAD or seen < min(ENOUGH_SEEN, self.images) or bad <= self.max_ratio * seen:
            return ""
        return (
            f"{bad:,} of the {seen:,} images seen ({100 * bad / seen:.1f} %) could not be used, more than "
            f"data.max_bad_ratio {self.max_ratio:g} allows; {self.path} lists them"
        )
