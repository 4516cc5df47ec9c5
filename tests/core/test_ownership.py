"""One owner per folder, and nothing is used again that something else made."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dinokit.core.messages import UserError
from dinokit.core.ownership import check_same, digest_of_files, digest_of_model, digest_of_weights, only_owner
from dinokit.models.vit import Config, VisionTransformer

HOLD = """
import sys, pathlib
from dinokit.core.ownership import only_owner
with only_owner(pathlib.Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_folder_has_one_owner_until_its_process_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="another process writes to .*folder; wait for it"), only_owner(folder):
            pass
        other.kill()
    with only_owner(folder):
        pass
    assert not list(folder.iterdir())


def test_what_was_made_otherwise_is_refused_by_the_part_that_differs(tmp_path: Path) -> None:
    stamp = {"weights": "a", "settings": {"k": [1]}, "data": "b"}
    check_same(dict(stamp), stamp, place=tmp_path)
    for kept, said in (
        (stamp | {"data": "c"}, "other data;"),
        ({"weights": "a"}, "other settings and data;"),
        ([1], "weights and settings and data"),
    ):
        with pytest.raises(UserError, match=said):
            check_same(kept, stamp, place=tmp_path)


def test_files_are_told_by_what_they_hold(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"12")
    second.write_bytes(b"3")
    found = digest_of_files([first, second])
    assert digest_of_files([second, first]) != found
    first.write_bytes(b"1")
    second.write_bytes(b"23")
    assert digest_of_files([first, second]) != found


def test_weights_are_told_by_every_bit() -> None:
    network = nn.Linear(2, 2)
    found = digest_of_weights(network)
    with torch.no_grad():
        network.weight[0, 0] = torch.nextafter(network.weight[0, 0], torch.tensor(9.0))
    assert digest_of_weights(network) != found


def test_a_model_is_told_by_what_its_weights_do() -> None:
    small = Config(patch_size=4, dim=16, depth=1, heads=2, ffn_hidden=32, position="offset", position_grid=4)
    same = digest_of_model(VisionTransformer(small))
    assert digest_of_model(VisionTransformer(replace(small, drop_path=0.1))) == same
    several: tuple[dict[str, Any], ...] = ({"heads": 4}, {"position": "antialias"}, {"norm_eps": 1e-6})
    for changes in several:
        assert digest_of_model(VisionTransformer(replace(small, **changes))) != same
