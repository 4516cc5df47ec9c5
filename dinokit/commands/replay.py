"""`dinokit replay`: take one step of a run again and look into it"""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dinokit.checkpoints.store import RunFolder
from dinokit.commands.tables import print_table
from dinokit.core.files import check_result, write_json
from dinokit.core.messages import LISTED, UserError, info
from dinokit.run.replay import Replay
from dinokit.run.replay import replay as replayed
from dinokit.training.config import read


def replay(run: Path, step: int, *, device: str = "auto", out: Path | None = None) -> Replay:
    """Take one step of a run again, in memory, and look into it: losses, gradients, crops, the first odd number.

    Args:
        run: the run's folder; it is only read.
        step: as in metrics.jsonl and bad_steps.jsonl.
        device: auto, cpu, cuda or mps.
        out: file that receives all of it as JSON.
    """
    folder = RunFolder(Path(run))
    if not folder.config.is_file():
        raise UserError(f"{run} holds no run (no config.yaml); give the folder that pretrain --out wrote")
    if out is not None:
        check_result(Path(out), json=True)
    found = replayed(folder, read(folder.config), step, device=device)
    _print_replay(found)
    if out is not None:
        write_json(Path(out), asdict(found))
    return found


def _print_replay(found: Replay) -> None:
    """Print what a step looks like from within."""
    print_table(f"step {found.step}, trained on from step {found.start}", {"value": found.report.values})
    crops = Table("image", "lowest", "mean", "highest", "not finite", title="crops, normalised", box=None)
    for each in found.crops:
        crops.add_row(each.image, *(f"{x:.3f}" for x in (each.lowest, each.mean, each.highest)), str(each.odd))
    Console().print(crops)
    info(f"first odd output: {found.first or 'none'}")
    info(f"odd gradients: {', '.join(found.parameters[:LISTED]) or 'none'}")
    info(f"skipped: {found.report.fault}" if found.report.fault else "taken: loss and gradients are finite")
