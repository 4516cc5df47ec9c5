"""Hostile files are decoded or reported: no crash, no hang, no gigabytes, and nothing on the terminal."""

import subprocess
import sys
import warnings
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

from dinokit.core.messages import BadImage
from dinokit.images.decode import decode, describe
from tests.images.hostile import corpus, originals, png_file


def test_whole_files_of_every_kind_are_read() -> None:
    refused = {}
    for name, data in originals():
        try:
            pixels = decode(data, channels=8 if name == "channels.tif" else None)
            assert pixels.shape[1:] == (24, 24), name
            assert pixels.dtype == (torch.float32 if name.split(".")[0] in DEEP else torch.uint8), name
            assert describe(data).format
        except BadImage as error:
            refused[name] = str(error)
    assert refused.keys() - {"lab.tif"} == {"int.tif"}, refused  # LAB: new versions of Pillow convert it


DEEP = {"16", "deep-rgb", "deep-gray-alpha", "channels", "planes", "float", "half"}


def test_every_hostile_file_is_decoded_or_reported(capfd: pytest.CaptureFixture[str]) -> None:
    outcomes: Counter[str] = Counter()
    for number, (name, data) in enumerate(corpus()):
        channels = (3, 1, 4, None)[number % 4]
        try:
            pixels = decode(data, channels=channels)
        except BadImage as error:
            reason = str(error)
            assert reason.isprintable(), name  # one line
            assert 0 < len(reason) < 250, name
            assert " object at 0x" not in reason, name  # memory addresses would make equal runs differ
            assert "TypeCheck" not in reason, name  # a wrong annotation of ours, not a wrong file
            outcomes["reported"] += 1
            continue
        held, height, width = pixels.shape
        assert channels is None or held == channels, name
        assert min(height, width) > 0, name
        assert pixels.dtype in (torch.uint8, torch.float32), name
        assert torch.isfinite(pixels).all(), name
        outcomes["decoded"] += 1
    assert outcomes["decoded"] > 100, outcomes
    assert outcomes["reported"] > 300, outcomes
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


SCRIPT = """
import resource, signal
from dinokit.images.decode import BadImage, decode
from tests.images.hostile import bombs
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30,) * 2)
for name, data in bombs():
    for channels in (3, 13, None):
        signal.alarm(20)
        try:
            pixels = decode(data, channels=channels)
        except BadImage as error:
            assert "MemoryError" not in str(error), (name, str(error))
        else:
            assert name == "endless.tif", name
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow  # a process of its own; that they are refused: the tests above
def test_bombs_take_neither_memory_nor_time() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    assert int(done.stdout) < 300, f"{done.stdout} MB"


def test_a_bomb_of_deep_colours_is_measured_by_its_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 pixels of 16-bit RGBA take 320 bytes as float32; 6 times Pillow's limit in pixels is the limit in bytes."""
    data = png_file(5, 4, 16, 6, b"")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(BadImage, match="cut it into tiles"):
        decode(data)


def test_threads_leave_the_warnings_of_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns of an image beyond its limit, and warnings are errors here; filters are shared by all threads."""
    data = png_file(5, 4, 8, 0, zlib.compress(bytes(4 * 6)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        shapes = set(pool.map(lambda _: decode(data).shape, range(400)))
    assert shapes == {(3, 4, 5)}
    assert warnings.filters == before
