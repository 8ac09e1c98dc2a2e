"""Whether the model hub answers. Nothing here needs torch."""

from __future__ import annotations

import http.client
import ssl
import threading
import urllib.error
import urllib.request

from tintype.models.reading import one_line

PATIENCE = 3.0
"""Seconds to wait for a sign of life from the hub."""


def hub_trouble() -> str | None:
    """Why the hub cannot be asked; None if it answers.

    One request, without repetition, because the hub's own library tries for minutes.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answers: list[str | None] = []
    # In a thread: looking up a host's name knows no time limit.
    thread = threading.Thread(target=lambda: answers.append(_ask(constants.ENDPOINT)), daemon=True)
    thread.start()
    thread.join(PATIENCE + 0.2)
    return answers[0] if answers else f"no answer within {PATIENCE:.0f} s"


def _ask(address: str) -> str | None:
    request = urllib.request.Request(address, method="HEAD")
    try:
        # An opener of its own reads the proxies that are set now.
        with urllib.request.build_opener().open(request, timeout=PATIENCE):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answers {error.code}" if error.code >= 500 else None
    except urllib.error.URLError as error:
        # The hub's library brings certificates of its own; that it answered is enough.
        return None if isinstance(error.reason, ssl.SSLError) else _reason(error.reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return _reason(error)


def _reason(error: BaseException | str) -> str:
    """Words without a number: ``Connection refused``."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return error if isinstance(error, str) else one_line(error)
