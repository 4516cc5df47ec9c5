"""Reading in threads, a bounded number of items ahead; decoders and numpy leave the interpreter free for each other."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_EACH = 32  # items ahead, per thread


def ahead(work: Callable[[int], T], count: int, *, workers: int) -> Iterator[T]:
    """Yield work(0) ... work(count - 1) in this order; 0 workers: computed by the caller's own thread."""
    if workers == 0:
        yield from map(work, range(count))
        return
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for index in range(count):
            pending.append(pool.submit(work, index))
            if len(pending) == _EACH * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
