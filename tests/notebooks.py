"""Notebooks run whole in a folder, by a kernel of this Python that finds this dinokit.

    python -m tests.notebooks examples/look.ipynb ...    runs them in an empty folder and keeps what came out

There is one version of the code: what makes a notebook small for a test stands in another cell, below the cell tagged
`parameters`, as papermill does it.
"""

import base64
import io
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode, v4
from PIL import Image

import dinokit

EXAMPLES = Path(__file__).parent.parent / "examples"
PATIENCE = 3600  # seconds of one cell
PNG, JPEG = "image/png", "image/jpeg"


def read(path: Path) -> NotebookNode:
    """Return what a file holds."""
    return nbformat.read(path, as_version=4)


def executed(notebook: NotebookNode, folder: Path, **parameters: object) -> NotebookNode:
    """Run all cells in a folder, and return the notebook with what came out.

    Args:
        parameters: that are to be others than in the cell tagged `parameters`.

    Raises:
        CellExecutionError: if a cell fails.
    """
    if parameters:
        tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
        (place,) = (number for number, each in enumerate(tags) if "parameters" in each)
        lines = [f"{name} = {value!r}" for name, value in parameters.items()]
        notebook.cells.insert(place + 1, v4.new_code_cell("\n".join(lines)))
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=PATIENCE, startup_timeout=PATIENCE, resources=where
    )
    home = str(Path(dinokit.__file__).parents[1])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    return client.execute(env={**os.environ, "PYTHONPATH": path, "DINOKIT_CACHE": str(folder / "cache")})


def pictures(notebook: NotebookNode) -> list[Image.Image]:
    """Return all pictures that cells show, in their order; Pillow's come as PNG and as JPEG."""
    texts = [data.get(PNG) or data[JPEG] for data in _shown(notebook) if PNG in data or JPEG in data]
    return [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in texts]


def shrink(notebook: NotebookNode) -> None:
    """Keep a picture once, as JPEG where that is smaller: a repository remembers every version."""
    for data in _shown(notebook):
        if PNG in data:
            shown, kept = Image.open(io.BytesIO(base64.b64decode(data[PNG]))), io.BytesIO()
            shown.convert("RGB").save(kept, "jpeg", quality=62, optimize=True)
            text = base64.b64encode(kept.getvalue()).decode()
            data.pop(JPEG, None)
            if len(text) < len(data[PNG]):
                del data[PNG]
                data[JPEG] = text
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran


def _shown(notebook: NotebookNode) -> list[dict[str, Any]]:
    return [output["data"] for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]


if __name__ == "__main__":
    with TemporaryDirectory() as place:  # one for all: the run that one has trained is there for the others
        for each in map(Path, sys.argv[1:]):
            done = executed(read(each), Path(place))
            shrink(done)
            nbformat.write(done, each)
