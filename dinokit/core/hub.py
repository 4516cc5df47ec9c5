"""The Hugging Face hub, asked by the libraries of others: what goes wrong there becomes one line, at once.

The libraries ask the hub again and again: on a machine without network a single load took 55 seconds. Here it is asked
once, briefly; if it does not answer, only its cache is looked at.
"""

import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from importlib import import_module
from typing import Any

from dinokit.core.messages import UserError, line_of

PATIENCE = 5.0  # seconds that the hub has to answer


@contextmanager
def fetching(what: str, *, instead: str, local: bool = False) -> Iterator[None]:
    """Let a library load something from the hub; all it raises becomes a line: what was looked for, where, what to do.

    Args:
        what: the model or the images, as the user named it.
        instead: what to do where the files cannot be fetched, for the message.
        local: it is a folder; the hub is not asked for anything.
    """
    constants: Any = import_module("huggingface_hub.constants")  # here: it takes a tenth of a second
    before, muted = constants.HF_HUB_OFFLINE, logging.root.manager.disable
    offline = before or local or not _answers(constants.ENDPOINT)
    try:
        logging.disable(logging.CRITICAL)  # the libraries log what they also raise
        constants.HF_HUB_OFFLINE = offline
        yield
    except UserError:
        raise
    except Exception as error:  # a library that loads what others wrote raises almost anything
        errors, chain = import_module("huggingface_hub.errors"), list[BaseException]()
        link: BaseException | None = error
        while link is not None:
            chain.append(link)
            link = link.__cause__ or link.__context__
        gone = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, urllib.error.URLError, ConnectionError)
        cut_off = constants.HF_HUB_OFFLINE and not local
        if any(isinstance(each, errors.GatedRepoError) for each in chain):
            why = f"is gated: accept its terms on the hub and run `hf auth login`, or {instead}"
        elif cut_off and any(isinstance(each, gone) for each in chain):
            why = f"is not in {constants.HF_HUB_CACHE} and {constants.ENDPOINT} is out of reach; {instead}"
        elif any(isinstance(each, errors.RepositoryNotFoundError) for each in chain):
            why = f"is not on the hub, or is private; correct the name, or {instead}"
        else:
            why = f"cannot be loaded: {line_of(error)}"
        raise UserError(f"{what} {why}") from error
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.disable(muted)


def _answers(endpoint: str) -> bool:
    """Ask once; proxies of the environment are honoured, and any answer of a server is one."""
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=PATIENCE):
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # the library may trust other certificates
    except (OSError, ValueError, HTTPException):  # the endpoint may be no address at all
        return False
