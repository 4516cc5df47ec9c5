"""Several sources mixed by weights, written down in a file such as mix.yaml:

    sources:
      - {source: 'web/shard-{000000..000099}.tar', weight: 0.7}
      - {source: photos, weight: 0.3}
      - {source: imagenet/train, weight: 0, homogeneous: 0.1}  # 10 % of the batches hold this source alone

`source` is anything that --data takes, relative to the file; braces need quotes. Weights are relative; they say how
often an image of a source is seen, whatever its size. A source that is in no mixed batch has weight 0.
"""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Int64

from dinokit.core.files import digest, read_text
from dinokit.core.messages import UserError, unknown_name
from dinokit.images import intensity
from dinokit.sources import location
from dinokit.sources.base import Source
from dinokit.sources.published import is_published
from dinokit.sources.sampler import Mix

SUFFIXES = (".yaml", ".yml")
_FIELDS = ("source", "weight", "homogeneous")
_LARGEST = 1e9  # weight; with infinity there are no shares
_EXAMPLE = "{source: photos, weight: 0.3}"


@dataclass(frozen=True)
class Part:
    """A line of a mixture."""

    source: str  # seen from here
    weight: float
    homogeneous: float


@dataclass(frozen=True)
class Joined:
    """The images of several sources, one source after the other."""

    sources: tuple[Source, ...]
    ends: Int64[np.ndarray, "source"]

    def key(self, row: int) -> str:
        """Return the name of its source and the key there."""
        source, index = self._find(row)
        return f"{source.name}/{source.key(index)}"

    def fetch(self, row: int) -> bytes | intensity.Image:
        """Return what its source holds."""
        source, index = self._find(row)
        return source.fetch(int(source.rows[index]))

    def _find(self, row: int) -> tuple[Source, int]:
        number = int(np.searchsorted(self.ends, row, side="right"))
        return self.sources[number], row - int(self.ends[number]) + len(self.sources[number])


def mixed(spec: str, sources: Sequence[Source], parts: Sequence[Part]) -> Source:
    """Mix sources; UserError if one is a mixture itself, their channels differ, or the shares are impossible."""
    for source in sources:
        if source.mix is not None:
            raise UserError(f"{spec} mixes {source.name}, which is a mixture itself; list its sources here")
        if source.channels != sources[0].channels:
            raise UserError(
                f"{spec} mixes images of {sources[0].channels} channels ({sources[0].name}) with images of "
                f"{source.channels} ({source.name}); all must have the same"
            )
    try:
        weights, alone = tuple(part.weight for part in parts), tuple(part.homogeneous for part in parts)
        mix = Mix(tuple(map(len, sources)), weights, alone)
    except UserError as error:
        raise UserError(f"{spec}: {error}") from error
    classes = tuple(dict.fromkeys(name for source in sources for name in source.classes))
    labels = []
    for source in sources if classes else ():  # as places in the classes of all, by name
        place = np.array([*map(classes.index, source.classes), -1], dtype=np.int64)  # -1 stays -1
        labels.append(np.full(len(source), -1) if source.labels is None else place[source.labels])
    domains = [source.domains for source in sources if source.domains is not None]
    whites = [np.full(len(each), np.nan) if each.whites is None else each.whites for each in sources]
    joined = Joined(tuple(sources), np.cumsum(mix.lengths))
    return Source(
        name=spec,
        channels=sources[0].channels,
        rows=np.arange(sum(mix.lengths)),
        key_of=joined.key,
        fetch=joined.fetch,
        fingerprint=digest([repr(mix), *(source.fingerprint for source in sources)]),
        classes=classes,
        labels=np.concatenate(labels) if classes else None,
        domains=np.concatenate(domains) if len(domains) == len(sources) else None,
        whites=np.concatenate(whites) if any(each.whites is not None for each in sources) else None,
        decoded=all(source.decoded for source in sources),
        mix=mix,
        remarks=tuple(f"{source.name}: {remark}" for source in sources for remark in source.remarks),
    )


def read_mixture(spec: str) -> list[Part]:
    """Read the lines of a mixture; UserError, with the line, if one is none."""
    text = read_text(Path(spec))
    try:
        written: Any = yaml.safe_load(text)
        node: Any = yaml.compose(text, yaml.SafeLoader)  # knows the lines
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also dates that are none, and endless brackets
        raise UserError(f"{spec} is no YAML: {' '.join(str(error).split())}") from error
    lines = written.get("sources") if isinstance(written, dict) else None
    if not isinstance(lines, list) or not lines:
        raise UserError(f"{spec} has no list of sources; it takes lines such as - {_EXAMPLE}")
    nodes = [value for name, value in node.value if name.value == "sources"]  # the last counts; none if merged by <<
    marks = [f"line {item.start_mark.line + 1}" for item in nodes[-1].value] if nodes else ["a source"] * len(lines)
    parts = []
    for mark, line in zip(marks, lines, strict=True):
        where = f"{mark} of {spec}"
        if not isinstance(line, dict) or not isinstance(line.get("source"), str) or not line["source"]:
            raise UserError(f"{where} is {reprlib.repr(line)}, expected {_EXAMPLE}")
        for name in line:
            if name not in _FIELDS:
                raise unknown_name(f"field in {where}", reprlib.repr(name).strip("'"), _FIELDS)
        numbers: dict[str, Any] = {"weight": line.get("weight"), "homogeneous": line.get("homogeneous", 0)}
        for name, value in numbers.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _LARGEST:  # NaN: no
                wanted = f"expected a number from 0 on, as in {_EXAMPLE}"
                raise UserError(f"{where}: {name} is {reprlib.repr(value)}, {wanted}")
        if Path(line["source"]).suffix in SUFFIXES:
            raise UserError(f"{where} is a mixture itself; list its sources here")
        kind = location.prefix(line["source"]) if is_published(line["source"]) else ""
        place = kind + location.join(location.parent(spec), line["source"].removeprefix(kind))
        parts.append(Part(place, float(numbers["weight"]), float(numbers["homogeneous"])))
    return parts
