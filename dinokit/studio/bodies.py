"""What is sent to the studio, read a piece at a time and bounded: in its bytes, in its time, and all of it together.

Nobody waits for others to have sent, so who sends slowly holds nobody up, as long as fewer than `SENDERS` do. Who
pauses, or takes too long in whole, is refused (408); and so is, at once, who comes while so many send, or sends what
would be too much to hold (503).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

from starlette.exceptions import HTTPException
from starlette.requests import Request

from dinokit.studio import guard
from dinokit.studio import images as limits
from dinokit.studio.networks import Busy

PAUSE, WHOLE = 5.0, 30.0  # seconds from one piece to the next, and for all of them
HELD = 8 * limits.BYTES  # of all that is being sent, or was and is not answered
SENDERS = guard.AT_ONCE // 2  # at a time; the others are left to those who only ask


@final
class Bodies:
    """All that is being sent, or waits for its answer in memory."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._held = self._senders = 0

    @asynccontextmanager
    async def read(self, request: Request, most: int) -> AsyncIterator[bytes]:
        """Give what was sent, as long as it is at most so many bytes; they count as held until the context ends.

        Raises:
            HTTPException: if it is too large, or comes too slowly.
            Busy: if too much is being sent at once.
        """
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit() or int(declared[:20]) > most:
            raise _too_large(most)
        if self._senders >= SENDERS:
            raise Busy(f"{self._senders} images are being sent already; ask again in a moment")
        pieces = list[bytes]()
        try:
            self._senders += 1
            try:
                await self._receive(request, pieces, most)
            finally:
                self._senders -= 1
            pieces[:] = [b"".join(pieces)]  # in place of its pieces, so that it is held once
            yield pieces[0]
        finally:
            self._held -= sum(map(len, pieces))

    async def _receive(self, request: Request, pieces: list[bytes], most: int) -> None:
        """Append the pieces as they come."""
        clock = asyncio.get_running_loop().time
        end, count = clock() + WHOLE, 0
        try:
            async with asyncio.timeout(PAUSE) as waiting:
                async for piece in request.stream():
                    count += len(piece)
                    if count > most:
                        raise _too_large(most)
                    if self._held + len(piece) > HELD:
                        raise Busy("too much is being sent at once; ask again in a moment")
                    pieces.append(piece)
                    self._held += len(piece)
                    waiting.reschedule(min(clock() + PAUSE, end))
        except TimeoutError as error:
            wanted = f"expected the body within {WHOLE:g} s and no pause of {PAUSE:g} s"
            raise HTTPException(408, f"{wanted}, got {count:,} bytes of it; send it again") from error


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"expected at most {most:,} bytes, got more; make it smaller")
