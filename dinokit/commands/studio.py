"""`dinokit studio`: a page on this machine to point at patches and see what models make of them"""

from contextlib import closing
from pathlib import Path

from dinokit.checkpoints.store import run_and_step
from dinokit.core import device as devices
from dinokit.core.messages import UserError, info, library
from dinokit.studio.export import export as write_page
from dinokit.studio.start import Opened, opened
from dinokit.suites.columns import shown

LOCAL = "127.0.0.1"


def studio(
    *,
    model: tuple[str, ...],
    data: str,
    split: str | None = None,
    index: Path | None = None,
    size: int | None = None,
    host: str = LOCAL,
    port: int = 0,
    token: str | None = None,
    export: Path | None = None,
    images: tuple[str, ...] = (),
    steps: tuple[str, ...] = (),
    heads: int | None = None,
    device: str = "auto",
) -> None:
    """Serve a page on this machine, until Ctrl-C: point at a patch, and every image shows how alike its patches are.

    Also PCA, attention, search by image or by patch, several models side by side, and a run's checkpoints on a slider.
    From another machine: ssh -L 8000:localhost:PORT, then open localhost:8000. Or write some images as one page to keep
    or to send, which needs no server and no network: --export.

    Args:
        model: a run folder, RUN/checkpoints/STEP, a weights file, a published name, or a peer; several are compared.
        data: a folder of images, or anything else that `pretrain` takes; drag further ones into the page.
        split: of the images; left out, train, or all where there are no splits.
        index: what `dinokit embed` wrote of these images by one of the models: searches then cover all of them at once.
        size: pixels of the short side, as a model sees an image; left out, 48 patches of the first model.
        host: to serve on; any but this machine's own needs --token.
        port: to serve on; 0: any that is free.
        token: without which nothing is shown, also where other people work on this machine; 16 letters or more.
        export: a page .html to write instead of serving.
        images: of an exported page, by index or name, one or several; left out, eight of them.
        steps: of an exported page, a run's checkpoints; left out, the last.
        heads: of attention, for weights that do not say it.
        device: auto, cpu, cuda or mps.
    """
    serving = {"index": index, "token": token, "port": port or None, "host": None if host == LOCAL else host}
    unused = serving if export is not None else {"images": images, "steps": steps}
    given = [f"--{name}" for name, value in unused.items() if value]
    if given:
        raise UserError(f"{given[0]} is for {'a page that is served' if export else '--export'}; leave it out")
    numbers = [int(step) for step in steps if step.isascii() and step.isdigit()]
    if len(numbers) < len(steps):
        raise UserError(f"expected --steps to be whole numbers, got {' '.join(steps)}")
    if export is None:
        check_served(host, token)
    named = map(str, (model,) if isinstance(model, str | Path) else model)
    models = {path: _called(path, short) for path, short in shown(named).items()}
    found = opened(models, str(data), split=split, index=index, size=size, heads=heads, device=devices.choose(device))
    with closing(found):
        if export is None:
            serve(found, host=host, port=port, token=token)
        else:
            written = write_page(found, Path(export), images=images, steps=numbers)
            info(f"{written / 1e6:.1f} MB · {export}")


def _called(path: str, short: str) -> str:
    """Return how a model is called in the page: a checkpoint with its run, else as everywhere."""
    run, step = run_and_step(Path(path))
    return short if step is None else f"{run.path.name} at {step}"


def check_served(host: str, token: str | None) -> None:
    """Refuse to serve without the libraries, or other machines without a token."""
    for name in ("starlette", "uvicorn"):
        library(name, extra="studio")
    library("dinokit.studio.guard", extra="studio").check_host(host, token)


def serve(found: Opened, *, host: str, port: int, token: str | None) -> None:
    """Serve a studio until Ctrl-C."""
    server = library("dinokit.studio.server", extra="studio")
    with server.listening(host, port) as listening:
        name, there = f"[{host}]" if ":" in host else host, listening.getsockname()[1]
        info(f"http://{name}:{there}/{'' if token is None else f'?token={token}'} · Ctrl-C ends it")
        server.server(server.application(found, host=host, token=token)).run(sockets=[listening])
        raise KeyboardInterrupt  # which alone ends it; on a busy machine asyncio once ended without a word
