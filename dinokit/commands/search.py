"""`dinokit search`: find images by an image or by one of its patches: build, add, remove, query, near, serve"""

from contextlib import closing
from json import dumps
from pathlib import Path
from typing import Any, Literal

from dinokit.commands import indexing, searching
from dinokit.commands.studio import check_served, serve
from dinokit.commands.tables import print_rows
from dinokit.core import device as devices
from dinokit.core.files import check_writable, only_owner
from dinokit.core.messages import UserError, info, library
from dinokit.curation.stored import STAMP
from dinokit.features.embed import check_outside
from dinokit.search import change, there, weights
from dinokit.search.descriptors import of
from dinokit.search.index import NAME, Index, opened
from dinokit.search.nearest import EXTRA, WANTED, Kind
from dinokit.sources.source import absolute
from dinokit.studio.start import of_index


def search(index: Path) -> dict[str, Any]:
    """Say what an index holds: images, sources, what is compared and how it was chosen.

    Args:
        index: what `dinokit search build` wrote, or `dinokit embed`.
    """
    found = Index(index)
    about = found.about
    recall = f"faiss, which finds {100 * about.engine.recall:.1f} % of the {WANTED} nearest"
    info(f"{len(found):,} images · {about.by} of {about.model} · {'exact' if about.engine.file is None else recall}")
    rows = [
        (pool.source, pool.split or "", f"{len(pool) - len(piece.removed):,}", len(piece.removed))
        for pool, piece in zip(found.pools, about.pieces, strict=True)
    ]
    print_rows(str(index), ("source", "split", "images", "removed"), rows)
    if about.scores:
        indexing.print_scores(about.scores, about.by)
    return {"images": len(found), "by": about.by, "model": about.model, "sources": [row[0] for row in rows]}


def search_build(
    *,
    data: str,
    out: Path,
    model: str | None = None,
    split: str | None = None,
    by: Literal["auto", "cls", "gem", "both"] = "auto",
    kind: Kind = "auto",
    heads: int | None = None,
    device: str = "auto",
    precision: devices.Precision = "auto",
    batch: int | None = None,
    workers: int | None = None,
) -> Path:
    """Make an index of the images of a source. The same command goes on after a stop.

    Args:
        data: a folder of images, anything else that `pretrain` takes, or a folder of `dinokit embed`, which is shared.
        out: the folder to write.
        model: a run folder, a weights file, a published name, or a peer; not of embedded images, which know theirs.
        split: of the images; left out, train, or all where there are no splits.
        by: what is compared: cls; gem, the generalised mean of the patches; both. auto: what finds images of the same
            class best, measured on up to 2,000 images, or cls where they have no classes.
        kind: exact: every search looks at all images. faiss: a graph (extra `search`). auto: exact up to 350,000 images
            of 384 numbers, above it faiss, if it is installed.
        heads: of attention, for weights that do not say it.
        device: auto, cpu, cuda or mps.
        precision: fp32, bf16, or auto: bf16 where it is faster.
        batch: images in one forward pass; left out, what suits the device.
        workers: threads that read; left out, what suits the device.
    """
    out, data = Path(out), absolute(str(data))
    if (out / NAME).is_file():
        raise UserError(f"{out} is an index already; `dinokit search add {out} --data {data}` takes images in")
    library("pyarrow.parquet", extra=EXTRA)
    check_outside(out, data)
    if kind == "faiss":
        library("faiss", extra=EXTRA)  # before the work
    if (Path(data) / STAMP).is_file():
        given = {"model": model, "split": split, "heads": heads, "batch": batch, "workers": workers}
        given |= {
            name: None if each == "auto" else each for name, each in (("device", device), ("precision", precision))
        }
        indexing.check_pool(data, given, by="cls" if by == "auto" else by)
    check_writable(out)
    options: dict[str, Any] = {"heads": heads, "device": devices.choose(device), "precision": precision}
    options |= {"batch": batch, "workers": workers}
    with only_owner(out):
        feature = "cls+gem" if by == "auto" else of(by)
        piece = indexing.piece_of(out, data, model, split=split, feature=feature, **options)
        found = change.begin(out, piece, by=by, kind=kind)
    scores = found.about.scores
    if scores:
        indexing.print_scores(scores, found.about.by)
    elif by == "auto":
        info("no two classes of two images to measure by: cls is compared; --by gem or both take the patches, too")
    indexing.say(found, twins=change.twins(found.pools))
    return out


def search_add(
    index: Path,
    *,
    data: str,
    split: str | None = None,
    model: str | None = None,
    device: str = "auto",
    batch: int | None = None,
    workers: int | None = None,
) -> None:
    """Take images in: those of another source, or those that were added to one of the index; by the same weights.

    Args:
        index: what `dinokit search build` wrote.
        data: a folder of images, anything else that `pretrain` takes, or a folder of `dinokit embed`.
        split: of the images.
        model: the same weights, where they are no longer at the place that the index knows.
        device: auto, cpu, cuda or mps.
        batch: images in one forward pass; left out, what suits the device.
        workers: threads that read; left out, what suits the device.
    """
    index, data = indexing.changeable(index), absolute(str(data))
    check_outside(index, data, instead="move the index elsewhere")
    with only_owner(index, option=None):
        before = Index(index)
        about, stamp = before.about, before.pools[0].stamp
        if about.kind == "faiss":
            library("faiss", extra=EXTRA)  # before the work
        if (Path(data) / STAMP).is_file():
            given = {"model": model, "split": split, "batch": batch, "workers": workers}
            indexing.check_pool(data, given | {"device": None if device == "auto" else device}, by=about.by)
            opened(Path(data), about)  # or it is of other weights, and nothing has been linked
        options: dict[str, Any] = {"heads": stamp.get("heads"), "precision": stamp["precision"], "batch": batch}
        options |= {"device": devices.choose(device), "workers": workers, "feature": about.feature}
        if not (Path(data) / STAMP).is_file():
            weights.loaded(before, model)  # or they are others, and nothing has been linked
        piece = indexing.piece_of(index, data, model or about.model, split=split, before=before, **options)
        known, twins = len(before), change.twins(before.pools)  # which may be gone after it
        after = change.added(before, piece)
    indexing.say(after, before=known, twins=change.twins(after.pools) - twins)


def search_remove(index: Path, names: tuple[str, ...] = (), *, gone: bool = False, undo: bool = False) -> int:
    """Leave images out of all searches, or take them back.

    Args:
        index: what `dinokit search build` wrote.
        names: of images as searches show them, or patterns such as 'trash/*'; those that begin with - after --.
        gone: those that are no longer where they were.
        undo: take back what was removed under these names.
    """
    several = (names,) if isinstance(names, str) else tuple(names)
    if gone == bool(several) or (gone and undo):
        raise UserError("expected names of images, or else --gone alone; give one of them")
    index = indexing.changeable(index)
    with only_owner(index, option=None):
        before = Index(index)
        if gone:
            after, count = change.without(before, change.gone(before))
        else:
            after, count = (change.restored if undo else change.removed)(before, several)
    info(f"{count:,} images {'taken back' if undo else 'removed'} · {len(after):,} are searched")
    return count


def search_query(
    index: Path,
    images: tuple[str, ...],
    *,
    k: int = 10,
    at: str | None = None,
    among: int = 32,
    out: Path | None = None,
    size: int | None = None,
    model: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Print the images that are most like some images, the most similar first.

    Args:
        index: what `dinokit search build` wrote, or `dinokit embed`.
        images: files, or names of images of the index, which are then not found themselves.
        k: images that are found for each.
        at: X,Y in pixels of the query: find the images with a patch like the one there, and where.
        among: with --at, the images that are looked into: the nearest ones as a whole.
        out: draw the query, what was found and the patches that agreed, .png and others; slower, for patches are seen.
        size: of --at and --out, pixels of the short side; left out, 48 patches.
        model: the same weights, where they are no longer at the place that the index knows.
        json: print JSON.
        device: auto, cpu, cuda or mps.
    """
    for name, value in (("k", k), ("among", among), ("size", size)):
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    asked = searching.Asked(Index(index), k=k, among=among, size=size, model=model, device=devices.choose(device))
    words = (images,) if isinstance(images, str | Path) else images
    found = asked.found(list(map(str, words)), at=at, out=None if out is None else Path(out))
    if json:
        print(dumps(found, indent=2))
    else:
        for each in found:
            searching.show(each, of=Path(index))
    return found


def search_near(index: Path, *, above: float = 0.95, json: bool = False) -> list[dict[str, Any]]:
    """List pairs of images that are nearly the same, the most similar first.

    Args:
        index: what `dinokit search build` wrote, or `dinokit embed`.
        above: the cosine above which they are.
        json: print JSON.
    """
    if not -1 <= above <= 1:
        raise UserError(f"--above must be between -1 and 1, got {above}")
    found, gone = there.twins(Index(index), above=above)
    lines = [{"cosine": each.cosine, "name": each.one.name, "other": each.other.name} for each in found]
    if gone:
        info(f"{gone:,} pairs are left out, of which an image is gone; {searching.FORGET.format(index)}")
    if json:
        print(dumps(lines, indent=2))
    else:
        shown = [(f"{line['cosine']:.4f}", line["name"], line["other"]) for line in lines]
        print_rows(f"{len(lines):,} pairs above {above:g}", ("cosine", "image", "other"), shown)
    return lines


def search_serve(
    index: Path,
    *,
    model: str | None = None,
    size: int | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    device: str = "auto",
) -> None:
    """Serve searches on this machine until Ctrl-C: the studio's page, and JSON for programs (extra `studio`).

    POST /api/query?count=10&at=120,80 with an image as the body, or GET /api/query?name=NAME. More than a few at a time
    wait, many are refused (503).

    Args:
        index: what `dinokit search build` wrote, or `dinokit embed`.
        model: the same weights, where they are no longer at the place that the index knows.
        size: pixels of the short side, where patches are seen; left out, 48 patches.
        host: to serve on; any but this machine's own needs --token.
        port: to serve on; 0: any that is free.
        token: without which nothing is shown; 16 letters or more.
        device: auto, cpu, cuda or mps.
    """
    check_served(host, token)
    with closing(of_index(Path(index), model=model, size=size, device=devices.choose(device))) as found:
        serve(found, host=host, port=port, token=token)


INNER = {
    "build": search_build,
    "add": search_add,
    "remove": search_remove,
    "query": search_query,
    "near": search_near,
    "serve": search_serve,
}
