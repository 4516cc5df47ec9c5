"""A lock on an open file that goes with the process, however it ends: fcntl's, and where that is missing Windows's own.

Both are held by the process and not by the open file, so a loader process that outlives a killed run has none.
"""

import sys
import time
from typing import IO, Any

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

PAUSE = 0.1  # seconds between two attempts, where the system gives up waiting by itself


def lock(file: IO[Any], *, wait: bool) -> None:
    """Take the lock of a file that is open for writing.

    Args:
        wait: until its owner lets go of it.

    Raises:
        BlockingIOError, PermissionError: if another process has it and is not waited for.
        OSError: where the disk cannot lock.
    """
    if sys.platform == "win32":
        file.seek(0)  # a lock is of a range of bytes, from here on; it may lie beyond the end
        while True:
            try:
                return msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except PermissionError:
                if not wait:
                    raise
                time.sleep(PAUSE)
    else:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    return None
