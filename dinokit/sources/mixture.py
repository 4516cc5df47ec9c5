"""Several sources mixed by weights, written down in a file such as mix.yaml:

    sources:
      - {source: web/shard-{000000..000099}.tar, weight: 0.7}
      - {source: photos, weight: 0.3}
      - {source: imagenet/train, weight: 0, homogeneous: 0.1}  # 10 % of the batches hold this source alone

`source` is anything that --data takes, relative to the file. Weights are relative; they say how often an image of a
source is seen, whatever its size. A source that is in no mixed batch has weight 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import yaml
from jaxtyping import Int64, Shaped
from torch import Tensor

from dinokit.core.errors import UserError, unknown_name
from dinokit.sources.base import Source, digest
from dinokit.sources.sampler import Mix

SUFFIXES = (".yaml", ".yml")
_FIELDS = ("source", "weight", "homogeneous")
_LARGEST = 1e9  # weight; with infinity there are no shares


@dataclass(frozen=True)
class Part:
    """A line of a mixture."""

    source: str
    weight: float
    homogeneous: float


@final
class Mixture(Source):
    """The images of several sources, one source after the other, and how they are mixed."""

    def __init__(self, spec: str, sources: Sequence[Source], parts: Sequence[Part]) -> None:
        for source in sources[1:]:
            if source.channels != sources[0].channels:
                raise UserError(
                    f"{spec} mixes images of {sources[0].channels} channels ({sources[0].name}) with images of "
                    f"{source.channels} ({source.name}); all must have the same"
                )
        self.name = spec
        self.channels = sources[0].channels
        self.decoded = all(source.decoded for source in sources)
        self.mix = Mix(
            tuple(map(len, sources)),
            tuple(part.weight for part in parts),
            tuple(part.homogeneous for part in parts),
        )
        self.sources = tuple(sources)
        self._ends = np.cumsum(self.mix.lengths)
        self.classes = tuple(dict.fromkeys(name for source in sources for name in source.classes))
        if self.classes:
            self.labels = np.concatenate([_labels(source, self.classes) for source in sources])
        domains = [source.domains for source in sources if source.domains is not None]
        if len(domains) == len(sources):
            self.domains = np.concatenate(domains)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def key(self, index: int) -> str:
        source, place = self._find(index)
        return f"{source.name}/{source.key(place)}"

    def fingerprint(self) -> str:
        return digest(repr(self.mix), *(source.fingerprint() for source in self.sources))

    def encoded(self, index: int) -> bytes | None:
        source, place = self._find(index)
        return source.encoded(place)

    def read(self, index: int, *, min_side: int | None = None) -> Shaped[Tensor, "channel height width"]:
        source, place = self._find(index)
        return source.read(place, min_side=min_side)

    def _find(self, index: int) -> tuple[Source, int]:
        index %= len(self)
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.sources[number], index - int(self._ends[number]) + len(self.sources[number])


def read_mixture(spec: str) -> list[Part]:
    """Read the lines of a mixture.

    Raises:
        UserError: if the file is none.
    """
    try:
        written = yaml.safe_load(Path(spec).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot open {spec}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{spec} is no YAML: {' '.join(str(error).split())}") from error
    lines = written.get("sources") if isinstance(written, dict) else None
    if not isinstance(lines, list) or not lines:
        raise UserError(f"{spec} has no list of sources; it takes lines such as - {{source: photos, weight: 0.3}}")
    return [_part(spec, number, line) for number, line in enumerate(lines, start=1)]


def _part(spec: str, number: int, line: Any) -> Part:
    if not isinstance(line, dict) or not isinstance(line.get("source"), str) or not line["source"]:
        raise UserError(f"source {number} of {spec} is {line!r}, expected {{source: photos, weight: 0.3}}")
    for name in line:
        if name not in _FIELDS:
            raise unknown_name(f"field of source {number} of {spec}", str(name), _FIELDS)
    numbers = [line.get("weight"), line.get("homogeneous", 0)]
    known = [isinstance(value, int | float) and not isinstance(value, bool) for value in numbers]
    if not all(known) or not all(abs(value) <= _LARGEST for value in numbers):  # NaN is not
        raise UserError(f"source {number} of {spec} needs a weight, a number, such as {{source: photos, weight: 0.3}}")
    if Path(line["source"]).suffix in SUFFIXES:
        raise UserError(f"source {number} of {spec} is a mixture itself; list its sources here")
    return Part(line["source"], float(numbers[0]), float(numbers[1]))


def _labels(source: Source, classes: tuple[str, ...]) -> Int64[np.ndarray, "sample"]:
    """Return labels as places in the classes of all sources, by name; -1 where a source has none."""
    if source.labels is None:
        return np.full(len(source), -1, dtype=np.int64)
    place = np.array([*(classes.index(name) for name in source.classes), -1], dtype=np.int64)  # -1 stays -1
    labels: Int64[np.ndarray, "sample"] = place[source.labels]
    return labels
