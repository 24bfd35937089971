"""A night told to a webhook: one JSON object, whose ``text`` is what Slack and its like show."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from soup.errors import OutputError, UsageError

SECONDS = 10.0
"""To wait for an answer."""


def require_address(url: str) -> str:
    """The address, where it is one.

    Raises:
        UsageError: it is not; it is not repeated, as such addresses are secrets.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise UsageError("--notify: expected an address like https://hooks.example.org/…")
    return url


def notify(url: str, text: str, document: Mapping[str, Any]) -> None:
    """Post one object: ``text``, and the document under ``soup``.

    Raises:
        OutputError: it did not arrive; the message has the host alone, the rest may be a secret.
    """
    host = urlsplit(url).hostname
    body = json.dumps({"text": text, "soup": document}).encode()
    request = urllib.request.Request(
        url, body, {"Content-Type": "application/json", "User-Agent": "soup"}
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        raise OutputError(f"--notify: {host} answered {error.code}: not told") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or type(error).__name__
        raise OutputError(f"--notify: {host} cannot be reached ({why}): not told") from None
