"""Files on servers through fsspec: S3, Google Cloud, HTTP and what else it knows; keys come from its usual variables.

A read that fails is tried again a few times, unless the file is missing or forbidden; then it is the matter of one
image.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from dinokit.core.messages import UserError

SCHEMES = ("s3", "gs", "https", "http", "az", "abfs")
ATTEMPTS = 3
PAUSE = 0.2  # seconds before the second attempt; three times as long before each further one

T = TypeVar("T")


def read(url: str, start: int | None = None, stop: int | None = None) -> bytes:
    """Read a file, or the bytes from start to stop; OSError if that fails."""
    data: bytes = asked(url, lambda files: files.cat_file(url, start=start, end=stop))
    if start is not None and stop is not None and len(data) > stop - start:
        raise OSError("the server sends whole files only (no Range); download the shard")
    return data


def version(url: str) -> tuple[int, str]:
    """Return the size in bytes, -1 if the server does not tell, and what changes with the content."""
    found = asked(url, lambda files: files.info(url))
    tags = (found.get(name) for name in ("ETag", "etag", "LastModified", "updated", "mtime"))
    size = found.get("size")
    return -1 if size is None else int(size), str(next((tag for tag in tags if tag), ""))


def listed(url: str, *, pattern: bool = False) -> list[str]:
    """List the URLs that fit a pattern, or else all files below a prefix, as paths relative to it; sorted."""
    files = filesystem(url)
    try:
        # find takes a server that is down for an empty one
        found = asked(url, lambda files: files.glob(url) if pattern else files.find(url) or files.ls(url))
    except OSError as error:
        raise UserError(f"cannot list {url}: {error}; check the address, the network and the keys") from error
    if pattern:
        return sorted(str(files.unstrip_protocol(str(path))) for path in found)
    root = str(files._strip_protocol(url)).rstrip("/") + "/"
    return sorted(path[len(root) :] for path in map(str, found) if path.startswith(root))


def filesystem(url: str) -> Any:
    """Return fsspec's filesystem of a URL, one per process, which a forked process makes anew, or raise UserError."""
    scheme = url.split("://", 1)[0].lower()
    if scheme not in SCHEMES:
        raise UserError(f"cannot use {scheme}:// in {url}; known are {', '.join(SCHEMES)}")
    try:
        import fsspec
    except ImportError as error:
        raise UserError(f"{scheme}:// needs fsspec: pip install 'dinokit[remote]'") from error
    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise UserError(f"{scheme}:// needs another package: pip install 'dinokit[remote]' ({error})") from error


def asked(url: str, question: Callable[[Any], T]) -> T:
    """Ask the filesystem of a URL something, a few times if need be; OSError if there is no answer."""
    files = filesystem(url)
    for attempt in range(ATTEMPTS):
        try:
            return question(files)
        except Exception as error:  # each kind of server has its own; none of them may end a run
            if _is_final(error):
                raise OSError(_words(error, url)) from error
            if attempt == ATTEMPTS - 1:
                raise OSError(f"{_words(error, url)}, after {ATTEMPTS} attempts") from error
            time.sleep(PAUSE * 3**attempt)
    raise AssertionError("unreachable")


def _is_final(error: Exception) -> bool:
    """Tell what asking again cannot change; fsspec also says "not found" of a web server that is down or overloaded."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None:
        return not isinstance(cause, OSError) and getattr(cause, "status", 404) < 500
    return isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)


def _words(error: Exception, url: str) -> str:
    if isinstance(error, FileNotFoundError):
        if _is_final(error):
            return "no such file on the server"
        return _words(error.__cause__, url) if isinstance(error.__cause__, Exception) else "not reached"
    words = " ".join(str(error).replace(url, "").split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
