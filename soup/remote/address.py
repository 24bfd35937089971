"""Addresses of models elsewhere: ``hf://org/name@revision``, ``s3://…``, ``gs://…``, ``https://…``.

An address may hold secrets: a password before the host, a signature behind a question mark. They
are kept apart from what is shown, recorded and hashed.
"""

import os
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from soup.errors import UsageError

HUB = "hf"
WEB = ("http", "https")

# Path("hf://a") is hf:/a: one slash will do.
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])(.+)", re.DOTALL)
_BARE = re.compile(r"[a-z][a-z0-9+.-]+:/{2,}")
_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|KEY|KEY_ID)$")
SHORTEST = 8
"""Characters of what is taken for a secret by its variable's name: no words, no numbers."""

_ON_HUB = re.compile(
    r"(?P<name>[\w.-]+(?:/[\w.-]+)?)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+))?(?:/(?P<folder>[^@]+))?"
)


@dataclass(frozen=True)
class Address:
    """Where a model is.

    Attributes:
        scheme: ``hf``, ``s3``, ``https`` …
        place: what follows, without secrets; of a hub the model's name.
        revision: of a hub, where one was asked for: a branch, a tag or a commit.
        folder: of a hub, the folder of the repository that is the model; empty: all of it.
        url: all of it, with secrets; not of a hub.
        secrets: parts of it that must not be shown.
    """

    scheme: str
    place: str
    revision: str = ""
    folder: str = ""
    url: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def where(self) -> str:
        """It without a revision: what is the same place at all times."""
        return f"{self.scheme}://{self.place}" + (f"/{self.folder}" if self.folder else "")

    def at(self, revision: str) -> str:
        """It at a revision, for people and records."""
        if self.scheme != HUB:
            return f"{self.where} ({revision})" if revision else self.where
        behind = (f"@{revision}" if revision else "") + (f"/{self.folder}" if self.folder else "")
        return f"{self.scheme}://{self.place}{behind}"

    def __str__(self) -> str:
        return self.at(self.revision)

    def scrubbed(self, text: object) -> str:
        """What a library says, in one line and without secrets."""
        found = " ".join(str(text).split())
        for secret in sorted((*self.secrets, *_in_environment()), key=len, reverse=True):
            found = found.replace(secret, "…")
        found = re.sub(r"(?<=//)[^/\s@]+@", "…@", found)
        return re.sub(r"(://[^\s?'\"]+\?)[^\s'\"]+", r"\1…", found)[:300]  # signed addresses


def _in_environment() -> list[str]:
    """Tokens and keys that libraries take from there, and might tell of."""
    found = [value.strip() for name, value in os.environ.items() if _SECRET.search(name)]
    return [value for value in found if len(value) >= SHORTEST]


def is_address(text: str | os.PathLike[str]) -> bool:
    """Whether a member is elsewhere; what exists here is here, whatever it is called."""
    found = os.fspath(text)
    meant = _ADDRESS.fullmatch(found) or _BARE.fullmatch(found)
    return meant is not None and not os.path.exists(found)


def elsewhere(*given: str | os.PathLike[str] | None) -> bool:
    """Whether one of them is an address."""
    return any(one is not None and is_address(one) for one in given)


def parse(text: str | os.PathLike[str]) -> Address:
    """Take an address apart.

    Raises:
        UsageError: it is none that names a model; the message has no secret in it.
    """
    match = _ADDRESS.fullmatch(os.fspath(text))
    if match is None:
        bare = _BARE.fullmatch(os.fspath(text))
        said = f"{bare[0]}: names no place; " if bare else ""  # of anything else, no secret
        raise UsageError(f"{said}expected an address, e.g. hf://org/name or https://host/model")
    scheme, rest = match.groups()
    if scheme == HUB:
        return _on_hub(rest.rstrip("/"))
    try:
        parts = urlsplit(f"{scheme}://{rest}")
    except ValueError as error:  # brackets of a number that is none
        raise UsageError(f"expected an address, e.g. https://host/model: {error}") from None
    user, at, host = parts.netloc.rpartition("@")
    where = f"{host}{parts.path}".rstrip("/")
    address = Address(
        scheme,
        where,
        url=urlunsplit((scheme, parts.netloc, parts.path.rstrip("/"), parts.query, "")),
        secrets=tuple(_secrets(user if at else "", parts.query)),
    )
    if scheme in WEB and host.lower() in ("huggingface.co", "www.huggingface.co", "hf.co"):
        model = re.match(r"/([\w.-]+/[\w.-]+)(?:/tree/([^/]+))?", parts.path)
        wanted = f"{model[1]}{f'@{model[2]}' if model[2] else ''}" if model else "org/name"
        raise UsageError(f"{address}: a page of the hub; write hf://{wanted}")
    return address


def _on_hub(rest: str) -> Address:
    match = _ON_HUB.fullmatch(unquote(rest))
    if match is None or ".." in rest:
        raise UsageError(
            f"hf://{rest}: expected hf://org/name, hf://org/name@revision or "
            "hf://org/name@revision/folder"
        )
    return Address(HUB, match["name"], match["revision"] or "", match["folder"] or "")


def _secrets(user: str, query: str) -> list[str]:
    found = [user, unquote(user), query]
    found += [part for part in user.split(":") if len(part) > 3]
    found += [value for _, value in parse_qsl(query) if len(value) > 3]
    return [text for text in {*found, *map(unquote, found), *map(quote, found)} if text]
