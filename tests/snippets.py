"""The code in README and docs/, as a reader would type it: its blocks, their commands, and a place to run them in.

A block is fenced and says bash, sh, python or yaml. A comment in front of it says why the tests do not run it:

    <!-- not run: network -->    it installs or downloads
    <!-- not run: gpu -->        it needs an NVIDIA GPU, or several machines
    <!-- not run: data -->       a published set, or released weights, that are not here
    <!-- not run: serves -->     it goes on until Ctrl-C

Of those the commands are still looked at: that there are such words, options and settings. Whatever else is run, block
after block of a page, in one folder of tiny pictures. What takes long is given fewer steps (`SHORTER`), no other words.
A block of YAML whose first line is `# NAME.yaml` is the file of that name.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
REASONS = ("network", "gpu", "data", "serves")
LANGUAGES = ("bash", "sh", "python", "yaml")
_MARK = re.compile(r"<!-- not run: (\w+) -->")
_FENCE = re.compile(r"^```(\w*)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced piece of code."""

    page: Path
    line: int  # of its first line in the page, from 1
    language: str
    text: str
    reason: str  # why it is not run; empty if it is

    @property
    def place(self) -> str:
        """Say where it stands."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return the pages that hold code, README first; the log tells what was, not what to type."""
    found = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name not in ("log.md", "design.md")]
    return [ROOT / "README.md", *found]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in their order."""
    lines = page.read_text(encoding="utf-8").split("\n")
    number, reason = 0, ""
    while number < len(lines):
        mark, fence = _MARK.fullmatch(lines[number].strip()), _FENCE.match(lines[number])
        if mark:
            reason = mark[1]
        elif fence:
            end = lines.index("```", number + 1)
            yield Block(page, number + 2, fence[1], "\n".join(lines[number + 1 : end]), reason)
            number, reason = end, ""
        elif lines[number].strip():
            reason = ""
        number += 1


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command of a block of the shell, without comments; `a && b` are two."""
    for line in block.text.replace("\\\n", " ").split("\n"):
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield words[:end]
            words = words[end + 1 :]


def of_dinokit(words: Sequence[str]) -> list[str] | None:
    """Return what follows `dinokit`, however it is started; None for another command."""
    for start in (["dinokit"], ["python", "-m", "dinokit"], ["torchrun", "-m", "dinokit"], ["srun", "dinokit"]):
        if list(words[: len(start)]) == start:
            return list(words[len(start) :])
    return None
