"""How fast an index of many images is searched, exactly and by faiss, what faiss misses, and what a server does.

    python benchmarks/search.py engines FOLDER --rows 100000      # recall, times by turns, building, memory
    python benchmarks/search.py engines FOLDER --rows 350000 --kinds exact
    python benchmarks/search.py server FOLDER --rows 100000       # 50 clients at once: answers, refusals, memory

The rows are not of a network: 10,000 clusters of unequal sizes within 200 groups, the spread within one like that
between them, along 384 directions of falling weight (its k-th is k ** -0.5), as features of a trained network have. The
queries are further ones of the same clusters. FOLDER receives the pools and pictures once.
"""

import argparse
import http.client
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch
from PIL import Image
from safetensors.torch import save_file

from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import header
from dinokit.core.files import digest_of_model
from dinokit.curation.stored import begin, finish, write_part
from dinokit.images.intensity import Pixels
from dinokit.models.vit import Config, VisionTransformer
from dinokit.search import change
from dinokit.search.index import Index
from dinokit.sources.source import open_source

DIM, GROUPS, CLUSTERS, PART = 384, 200, 10_000, 16_384
QUERIES, ROUNDS, K = 500, 3, 10
CLIENTS, EACH, FILES = 50, 10, 200


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("what", choices=("engines", "server"))
    words.add_argument("folder", type=Path)
    words.add_argument("--rows", type=int, default=100_000)
    words.add_argument("--kinds", nargs="+", default=("exact", "faiss"))
    given = words.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if given.what == "server":
        server(given.folder, given.rows)
    else:
        engines(given.folder, given.rows, given.kinds)


def engines(folder: Path, rows: int, kinds: Sequence[str]) -> None:
    """Build an index of either kind of the same pool, and ask both by turns."""
    pool = made(folder / f"pool-{rows}", rows)
    asked = vectors(QUERIES, seed=1).astype(numpy.float64)
    opened, before = {}, memory()
    for kind in kinds:
        out = folder / f"{kind}-{rows}"
        began = time.monotonic()
        if not (out / "search.json").is_file():
            change.linked(pool, out / "pool-0")
            change.begin(out, "pool-0", by="cls", kind=kind)
        index = Index(out)
        built = time.monotonic() - began
        began = time.monotonic()
        index.nearest(asked[:1], k=K)
        print(f"{kind}: made {built:.1f} s, first answer {time.monotonic() - began:.1f} s, {index.about.engine}")
        opened[kind] = index
        print(f"    memory {memory() - before:.0f} MB more (peak)")
        before = memory()
    times: dict[str, list[float]] = {kind: [] for kind in opened}
    found: dict[str, list[set[int]]] = {}
    for _ in range(ROUNDS):
        for kind, index in opened.items():
            found[kind] = []
            for query in asked:
                began = time.perf_counter()
                nearest = index.nearest(query[None], k=K)[0]
                times[kind].append(time.perf_counter() - began)
                found[kind].append(set(nearest.rows.tolist()))
    for kind, each in times.items():
        low, middle, high = (1e3 * numpy.quantile(each, share) for share in (0.05, 0.5, 0.99))
        print(f"{kind}: {middle:.2f} ms a query, 5 % {low:.2f}, 99 % {high:.2f}")
    began = time.perf_counter()
    opened[kinds[0]].nearest(asked, k=K)
    print(f"{kinds[0]}, {QUERIES} queries together: {1e3 * (time.perf_counter() - began) / QUERIES:.2f} ms a query")
    if len(found) == 2:
        shares = [len(one & other) / K for one, other in zip(*found.values(), strict=True)]
        print(f"recall at {K}: {numpy.mean(shares):.4f}")


def server(folder: Path, rows: int) -> None:
    """Serve an index of as many pictures, and let clients ask it all at once."""
    model = network(folder / "vits16.safetensors")
    pictures = photos(folder / f"pictures-{rows}", rows)
    out = folder / f"served-{rows}"
    if not (out / "search.json").is_file():
        pool = made(folder / f"served-pool-{rows}", rows, model=model, data=pictures)
        change.linked(pool, out / "pool-0")
        change.begin(out, "pool-0", by="cls", kind="exact")
    words = [sys.executable, "-m", "dinokit", "search", "serve", str(out), "--device", "cpu"]
    began = time.monotonic()
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        port = next(int(found[1]) for line in process.stderr if (found := re.search(r":(\d+)/", line)))
        print(f"serving after {time.monotonic() - began:.1f} s, {peak(process.pid):.0f} MB")
        data = (pictures / "000000.jpg").read_bytes()
        one = [asked(port, data) for _ in range(20)]
        print(f"one client: {1e3 * numpy.median([seconds for _, seconds in one]):.0f} ms, {peak(process.pid):.0f} MB")
        found = list[tuple[int, float]]()

        def client() -> None:
            found.extend(asked(port, data) for _ in range(EACH))

        clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
        began = time.monotonic()
        for each in clients:
            each.start()
        for each in clients:
            each.join()
        took = time.monotonic() - began
        for status in sorted({status for status, _ in found}):
            mine = [seconds for each, seconds in found if each == status]
            shares = ", ".join(f"{100 * share:g} % {numpy.quantile(mine, share):.2f} s" for share in (0.5, 0.99))
            print(f"{CLIENTS} clients, {EACH} questions each: {len(mine)} x {status}, {shares}")
        print(f"{took:.1f} s, peak {peak(process.pid):.0f} MB, then one in {asked(port, data)[1]:.2f} s")
    finally:
        process.terminate()
        process.wait()


def asked(port: int, data: bytes) -> tuple[int, float]:
    """Send an image; return the status and how long the answer took."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/api/query?count=10", data)
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    assert ("found" in told) == (answer.status == 200)
    return answer.status, time.monotonic() - began


def vectors(count: int, *, seed: int) -> numpy.ndarray:
    """Draw rows of the same clusters as every other seed."""
    draw = numpy.random.default_rng(0)
    falling = (numpy.arange(1, DIM + 1) ** -0.5).astype(numpy.float32)
    groups = draw.standard_normal((GROUPS, DIM), dtype=numpy.float32)
    clusters = groups[draw.integers(0, GROUPS, CLUSTERS)] + draw.standard_normal((CLUSTERS, DIM), dtype=numpy.float32)
    shares = draw.pareto(1.5, CLUSTERS) + 0.1
    draw = numpy.random.default_rng([1, seed])
    which = draw.choice(CLUSTERS, count, p=shares / shares.sum())
    rows = (clusters[which] + draw.standard_normal((count, DIM), dtype=numpy.float32)) * falling
    return (rows / numpy.linalg.norm(rows, axis=1, keepdims=True)).astype(numpy.float16)


def made(folder: Path, rows: int, *, model: Path | None = None, data: Path | None = None) -> Path:
    """Write a pool of rows, once; of pictures, in the order of their source."""
    if (folder / "embed.json").is_file():
        return folder
    folder.mkdir(parents=True)
    source = None if data is None else open_source(str(data))
    stamp = {"model": str(model), "heads": None, "feature": "cls", "dim": DIM, "precision": "fp32", "split": None}
    stamp |= {"weights": "none", "pixels": {"white": None}, "data": str(data or "/none"), "part": PART}
    if model is not None:
        stamp["weights"] = digest_of_model(load(str(model)))
    begin(folder, stamp)
    for number, first in enumerate(range(0, rows, PART)):
        some = range(first, min(first + PART, rows))
        keys = [f"{row}.jpg" if source is None else source.key(row) for row in some]
        same = {"source": str(data), "split": None, "width": 256, "height": 256, "flags": [], "class": None}
        lines = {name: [value] * len(some) for name, value in (same | {"domain": None}).items()}
        lines |= {"row": list(some), "key": keys, "bytes_digest": [f"{row:032x}" for row in some]}
        fingerprint = "none" if source is None else source.fingerprint
        write_part(folder, number, vectors(len(some), seed=100 + number), lines, fingerprint=fingerprint)
    finish(folder)
    return folder


def network(path: Path) -> Path:
    """Write a ViT-S/16 that has learnt nothing."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        config = Config(patch_size=16, dim=DIM, depth=12, heads=6)
        vit = VisionTransformer(config, seed=0)
        vit.pixels = Pixels((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 224)
        save_file(vit.state_dict(), path, header(config, vit.pixels, step=0))
    return path


def photos(folder: Path, count: int) -> Path:
    """Write some pictures of noise, and links to them under other names."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for number in range(FILES):
            pixels = numpy.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).resize((256, 256)).save(folder / f"{number:06d}.jpg")
        for number in range(FILES, count):
            os.link(folder / f"{number % FILES:06d}.jpg", folder / f"{number:06d}.jpg")
    return folder


def memory() -> float:
    """Return what this process has needed at most, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak(process: int) -> float:
    """Return what another process has needed at most, in MB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) / 1024


if __name__ == "__main__":
    main()
