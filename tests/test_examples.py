"""The notebooks of examples/: each runs whole, in an empty folder, on less data than a person would take."""

import re
from pathlib import Path

import pytest

from tests.notebooks import EXAMPLES, executed, pictures, read

NAMES = ("colab", "curate", "evaluate", "look", "train", "use")
FEWER = {
    "colab": {"steps": 20},
    "train": {"steps": 20},
    "evaluate": {"steps": 20, "easy": "demo:fashion-placed"},  # one set, read once
    "curate": {"steps": 20, "most": 40, "size": 40, "threshold": 0.9998},  # after 20 steps all pictures are alike
    "use": {"steps": 20},
    "look": {"steps": 10, "size": 64},
}
PICTURES = {"colab": 1, "train": 3, "evaluate": 2, "curate": 4, "use": 2, "look": 9}
NUMBERS = {
    "colab": "bytes in",
    "train": "top1@20",
    "evaluate": "raw pixels",
    "curate": "of them copies",
    "use": "tensor",
    "look": "numbers",
}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_is_small_came_from_one_run_and_holds_its_pictures(name: str) -> None:
    path = EXAMPLES / f"{name}.ipynb"
    notebook = read(path)
    assert path.stat().st_size < 300_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert len(pictures(notebook)) == PICTURES[name]
    named = re.findall(r"\]\((\S+?)\)", "".join(cell.source for cell in notebook.cells))
    assert not [each for each in named if not (EXAMPLES / each).exists()]


@pytest.mark.slow
def test_each_runs_whole_from_an_empty_folder(tmp_path: Path) -> None:
    """One folder for all, as a person has it: the run that one has trained is there for the others."""
    for name in ("train", "evaluate", "curate", "use", "look", "colab"):
        notebook = executed(read(EXAMPLES / f"{name}.ipynb"), tmp_path, **FEWER[name])
        found = pictures(notebook)
        assert len(found) == PICTURES[name], name
        assert all(len(picture.getcolors(1 << 24) or ()) > 8 for picture in found), name
        said = str([cell.get("outputs") for cell in notebook.cells])
        assert NUMBERS[name] in said, name
        assert "Warning" not in said, name
