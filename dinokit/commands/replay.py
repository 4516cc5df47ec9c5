"""`dinokit replay`: take one step of a run again and look into it"""

from dataclasses import asdict
from pathlib import Path

from dinokit import recipes
from dinokit.checkpoints.store import RunFolder
from dinokit.commands.tables import print_replay
from dinokit.core.errors import UserError
from dinokit.core.files import check_result, write_json
from dinokit.run.replay import Replay
from dinokit.run.replay import replay as replayed


def replay(
    run: Path,
    step: int,
    *,
    device: str = "auto",
    out: Path | None = None,
) -> Replay:
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
        check_result(Path(out))
    found = replayed(folder, recipes.find(str(folder.config)), step, device=device)
    print_replay(found)
    if out is not None:
        write_json(Path(out), asdict(found))
    return found
