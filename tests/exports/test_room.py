"""A disk that fills while a file is written is one line that names the file, and nothing half written stays."""

import errno
import io
from pathlib import Path
from typing import Any

import onnx
import pytest

from dinokit.commands.export import TARGETS
from dinokit.core.messages import RunError
from dinokit.exports import openvino
from dinokit.exports.outputs import Outputs, about
from tests.exports.conftest import network


class Full(io.FileIO):
    """A file for which there is no room after its first bytes."""

    def write(self, data: Any) -> int:
        if self.tell():
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data[:100])


def no_stream(*_: object, **__: object) -> None:
    raise RuntimeError("basic_ios::clear: iostream error")  # what OpenVINO says of a full disk


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("to", [pytest.param("onnx", marks=pytest.mark.slow), "openvino", "torch-export"])
def test_no_room_is_said_with_the_file_and_nothing_is_left(
    to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "FileIO", Full)
    monkeypatch.setattr(onnx, "save", no_space)
    monkeypatch.setattr(openvino.quiet("openvino"), "save_model", no_stream)
    backbone, target = network("resnet"), TARGETS[to]
    told, out = about(backbone, ("cls",), model="resnet", dynamic=False), tmp_path / f"a{target.SUFFIX}"
    with pytest.raises(RunError, match=f"no room is left for {out}.*; free space and give the same command again"):
        target.write(Outputs(backbone, told.outputs).eval(), told, out)
    assert not list(tmp_path.iterdir())
