"""Whose folder it is, and whether what lies in it still belongs to the weights, the settings and the data at hand.

The rule for all that is kept on disk and used again - the state of a head's training, the pictures of a prediction,
the masks of a video: one process at a time owns a folder (`only_owner`), a file is whole or absent (files.py), and with
what is kept lies its stamp, plain values and digests of the weights, settings and data that made it. It is used again
if the stamp is the same, and else refused by name (`check_same`): neither mixed nor overwritten.

Files are told by what they hold: a copied folder has other times, a replaced image may have the old name and size.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path

import torch
from torch import nn

from dinokit.core.messages import UserError, reason

# settings that change no feature: of training, of the first weights, and the size of a whole image; RoPE's are weights
_OTHER = {"drop_path", "drop_path_shape", "init", "layer_scale", "base", "min_period", "max_period"}
_OTHER |= {"shift", "jitter", "rescale", "size"}


@contextmanager
def only_owner(folder: Path, *, doing: str = "writes to", option: str = "--out") -> Iterator[None]:
    """Keep a second process out of a folder, made if need be; the lock goes with the process, however it ends."""
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {reason(error)}; choose another {option}") from error
    with lock:
        try:
            # lockf, not flock: a loader process that outlives a killed run must not inherit the lock
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or os.fstat(lock.fileno()).st_ino != path.stat().st_ino:
                raise BlockingIOError  # its owner has just left and taken the file along
        except (BlockingIOError, PermissionError) as error:
            raise UserError(f"another process {doing} {folder}; wait for it or choose another {option}") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def check_same(kept: object, stamp: Mapping[str, object], *, place: Path) -> None:
    """Refuse what was made by something else than what is at hand, and name the parts that differ.

    Args:
        kept: the stamp that was found, or whatever lies in its place.
        stamp: part, such as weights, settings, data -> plain values or a digest.
    """
    if kept != stamp:
        found = kept if isinstance(kept, Mapping) else {}
        other = [name for name, value in stamp.items() if found.get(name) != value]
        raise UserError(
            f"{place} was made with other {' and '.join(other) or 'parts'}; delete it, or give another folder"
        )


def digest_of_weights(network: nn.Module) -> str:
    """Return a digest of a network's weights; what has none, such as raw pixels, gives that of nothing."""
    found = blake2b(digest_size=16)
    for name, value in sorted(network.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def digest_of_model(network: nn.Module) -> str:
    """Return a digest of a backbone: of its weights and, after a dash, of its settings and of how it sees pixels."""
    told = [getattr(network, name, None) for name in ("config", "pixels")]
    plain: list[object] = [asdict(each, dict_factory=_that_count) for each in told if each is not None]
    plain += [getattr(network, "name", "")] if told[0] is None else []  # a network of another library
    return f"{digest_of_weights(network)}-{blake2b(repr(plain).encode(), digest_size=8).hexdigest()}"


def _that_count(settings: list[tuple[str, object]]) -> dict[str, object]:
    return {name: value for name, value in settings if name not in _OTHER}


def digest_of_files(paths: Iterable[Path]) -> str:
    """Return a digest of what files hold, in their order."""
    found = blake2b(digest_size=16)
    for path in paths:
        found.update(blake2b(path.read_bytes(), digest_size=16).digest())
    return found.hexdigest()
