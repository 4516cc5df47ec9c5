"""A step of curation on disk: its stamp first, its numbers last, so that a start knows what it finds.

    OUT/.NAME.json    the stamp: settings, digests of pools, rows; whatever the result follows from
    OUT/NAME.json     the same and the numbers: the step is done

A folder belongs to one step, and a start with another stamp is refused by name. Between the two lies what has been
computed, of which a start after a kill makes use.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from dinokit.core import dist
from dinokit.core.files import check_same, read_json, write_json
from dinokit.core.messages import UserError, is_main

SELECTION = "selection.parquet"  # what a step chose, in its folder


@final
@dataclass(frozen=True)
class Step:
    """One step and its folder; all ranks call each method together, and rank 0 owns the folder."""

    out: Path
    name: str
    stamp: Mapping[str, Any]
    results: Sequence[str]  # files without which it is not done

    def done(self, *, beside: Sequence[str] = ()) -> dict[str, Any] | None:
        """Return what the numbers say if the step is done and its results are there.

        Args:
            beside: patterns of files that may lie there before the step begins.

        Raises:
            UserError: if the folder holds something else.
        """
        if is_main():
            self._check_own(beside)
        if not all((self.out / name).is_file() for name in (self._numbers, *self.results)):
            return None
        found = numbers_of(self.out, self.name)
        edited = any(found.get(name) != value for name, value in self._plain.items())
        return None if edited else found

    def begin(self) -> None:
        """Write the stamp once nothing speaks against the work; what a killed process was writing goes."""
        dist.barrier()  # all have looked
        if is_main():
            for left in self.out.rglob(".*.part"):
                left.unlink()
            write_json(self.out / self._stamp, self.stamp)
        dist.barrier()

    def end(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Write the numbers, those of rank 0, and return what they say."""
        if is_main():
            write_json(self.out / self._numbers, {**self.stamp, **numbers})
        dist.barrier()
        return numbers_of(self.out, self.name)

    @property
    def _plain(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(self.stamp))
        return found

    @property
    def _numbers(self) -> str:
        return f"{self.name}.json"

    @property
    def _stamp(self) -> str:
        return f".{self.name}.json"

    def _check_own(self, beside: Sequence[str]) -> None:
        others = [each for each in sorted(self.out.glob("*")) if each.name not in (".lock", self._stamp)]
        if (self.out / self._stamp).exists():
            if others:  # else a start was refused before any work, and this one asks for something else
                check_same(read_json(self.out / self._stamp), self._plain, place=self.out)
            return
        foreign = [each.name for each in others if not each.name.startswith(".") and not any(map(each.match, beside))]
        if foreign:
            raise UserError(f"{self.out} holds other files such as {foreign[0]}; give --out a new folder")


def numbers_of(folder: Path, name: str, *needs: str) -> dict[str, Any]:
    """Read the numbers of a step that is done.

    Raises:
        UserError: if they are none, or one of those that are needed is not among them.
    """
    path = folder / f"{name}.json"
    found = read_json(path)
    if not isinstance(found, dict) or any(each not in found for each in needs):
        raise UserError(f"{path} is not what dinokit curate {name} wrote; delete it and run that again")
    return found
