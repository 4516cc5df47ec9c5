"""The weights of an index: where they lie now, for they may have been moved, and that they are the same."""

from collections.abc import Iterator
from contextlib import contextmanager

from dinokit.checkpoints.load import check_written, load
from dinokit.core.files import check_same, digest_of_model
from dinokit.core.messages import UserError
from dinokit.models.features import Backbone
from dinokit.search.index import About, Index


def loaded(index: Index, model: object = None) -> Backbone:
    """Load the model of an index.

    Args:
        model: whatever `load` takes, where the weights lie now; None: where they lay.

    Raises:
        UserError: if it is gone, or has other weights by now; says that --model finds it.
    """
    about = index.about
    word = check_written(about.model if model is None else model)
    with finding(model):
        found = load(word, heads=index.pools[0].stamp.get("heads"))
    kept = {"weights": digest_of_model(found)}
    changed = f"{about.model} has changed: give --model what it was, or build the index anew"
    check_same(
        {"weights": about.weights}, kept, place=index.folder, instead=changed if model is None else instead(about)
    )
    return found


def instead(about: About) -> str:
    """Say what to do where the weights are others; the index is as good as ever."""
    return f"give --model the one of {about.model}"


@contextmanager
def finding(model: object) -> Iterator[None]:
    """Say of weights that cannot be loaded from where they lay, that they may lie elsewhere."""
    try:
        yield
    except UserError as error:
        if model is not None:
            raise
        raise UserError(f"{error}; or give --model the place where the weights of the index lie now") from error
