"""Tables of a curation: Parquet of plain columns, so that DuckDB, Spark or Ray read them as they are; and arrays."""

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from dinokit.core.files import write_atomic
from dinokit.core.messages import UserError, library, line_of


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length - arrays or lists - atomically."""
    arrow, parquet = library("pyarrow", extra="curate"), library("pyarrow.parquet", extra="curate")
    with write_atomic(path) as temporary:
        parquet.write_table(arrow.table(dict(columns)), temporary)


def write_array(path: Path, array: Shaped[np.ndarray, "..."]) -> None:
    """Write a .npy file atomically.

    Raises:
        OSError: by its own words, if the disk is full.
    """
    with write_atomic(path) as temporary, temporary.open("wb") as file:
        try:
            np.save(file, array, allow_pickle=False)
        except OSError as error:
            if error.errno is None:  # numpy says how many numbers were written
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise


def read_table(path: Path, columns: Sequence[str] | None = None) -> dict[str, Shaped[np.ndarray, " row"]]:
    """Read some columns, None all; texts become objects, so of a large table name those that are wanted.

    Raises:
        UserError: if it is missing or no Parquet.
    """
    parquet, arrow = library("pyarrow.parquet", extra="curate"), library("pyarrow", extra="curate")
    if not path.is_file():
        raise UserError(f"{path} is missing; run the step that writes it again")
    try:
        table = parquet.read_table(path, columns=None if columns is None else list(columns))
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read: {line_of(error)}; delete it and run the step again") from error
    return {name: table[name].to_numpy() for name in table.column_names}


def read_places(path: Path, column: str, *, below: int, count: int | None = None) -> Int64[np.ndarray, " row"]:
    """Read a column of places in something else.

    Args:
        below: how many places there are.
        count: how many are expected; None: some.

    Raises:
        UserError: if they are none, as where another program has written the table again.
    """
    found = read_table(path, [column])[column]
    whole = found.dtype.kind in "iu" and len(found) > 0 and len(found) == (len(found) if count is None else count)
    if not whole or found.min() < 0 or found.max() >= below:
        expected = f"{'' if count is None else f'{count:,} '}whole numbers from 0 to {below - 1:,}"
        raise UserError(f"{path}: expected {expected} in the column {column}; delete it and run the step again")
    return found.astype(np.int64)
