"""torch.export's own archive (.pt2): `torch.export.load(file).module()(images)`, without dinokit.

The metadata are a JSON beside the program in the archive: `extra_files={"about.json": ""}`.
"""

import io
import json
from pathlib import Path
from typing import Any, final
from zipfile import is_zipfile

import torch
from torch import Tensor

from dinokit.core.files import in_one_go, write_atomic
from dinokit.core.messages import UserError, line_of
from dinokit.exports.outputs import About, Exported, recorded
from dinokit.exports.parity import Refused, Run

SUFFIX = ".pt2"
LIBRARIES = ()
PRECISIONS = ("fp32", "fp16", "bf16")
ABOUT = "about.json"


@final
class _Patient(io.BufferedWriter):
    """A file that keeps what the system refuses until it is asked: in the midst of its work torch ends the process."""

    refused: OSError | None = None

    def write(self, data: Any) -> int:
        """Take the bytes, also where they find no room."""
        try:
            return super().write(data)
        except OSError as error:
            self.refused = self.refused or error
            return len(data)


def check_installed() -> None:
    """Do nothing: torch is there."""


def write(network: Exported, told: About, out: Path, *, photos: Tensor | None = None) -> None:
    """Write a file, whole or not at all; UserError if it cannot hold the network."""
    assert photos is None, "of int8, which it does not write"
    program = recorded(network, told, target="torch.export")
    with in_one_go(out), write_atomic(out) as temporary, _Patient(io.FileIO(temporary, "wb")) as file:
        torch.export.save(program, file, extra_files={ABOUT: json.dumps(told.plain())})
        if file.refused is not None:
            raise file.refused


def opened(file: Path) -> tuple[About, Run]:
    """Open a file, or raise UserError."""
    extra = {ABOUT: ""}
    if not is_zipfile(file):  # of which torch would say pages
        raise UserError(f"{file} cannot be opened by torch.export: it is no archive")
    try:
        with file.open("rb") as archive:
            program = torch.export.load(archive, extra_files=extra)
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:
        raise UserError(f"{file} cannot be opened by torch.export: {line_of(error)}") from error
    network = program.module()

    def run(images: Tensor) -> tuple[Tensor, ...]:
        try:
            with torch.no_grad():
                found: tuple[Tensor, ...] = network(images)
        except (AssertionError, RuntimeError) as error:  # what torch says of sizes that it did not foresee
            raise Refused(str(error)) from error
        return found

    return About.of(json.loads(extra[ABOUT] or "{}"), file=file), run
