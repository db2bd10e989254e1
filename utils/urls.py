"""Addresses of data that lies elsewhere. What may be a secret in them is never shown."""

import re
from typing import Annotated
from urllib.parse import quote

from pydantic import AfterValidator, PlainSerializer

from utils.errors import UserError

SCHEMES = ("s3", "gs", "hf", "https", "http", "memory")  # the last one is fsspec's, for tests
HF_FORM = "hf://datasets/OWNER/NAME/PATH"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_USER = re.compile(r"(://)[^/?]*@")
HIDDEN = "***"


def scheme_of(place: str) -> str | None:
    """Return what stands before `://` in an address, and None for a path of this machine."""
    found = _SCHEME.match(place)
    return found[1].lower() if found else None


def is_remote(place: str) -> bool:
    return scheme_of(place) is not None


def joined(root: str, path: str) -> str:
    """Return the address of a relative path below `root`. A query at the end of `root`, such as a signature, stays at the end."""
    base, mark, query = root.partition("?")
    if scheme_of(root) in ("http", "https"):
        path = quote(path)
    return f"{base.rstrip('/')}/{path}{mark}{query}"


def redacted(place: str) -> str:
    """Return an address without user, password and query. A path is returned as it is."""
    if not is_remote(place):
        return place
    base, mark, _ = place.partition("?")
    return _USER.sub(rf"\1{HIDDEN}@", base) + (mark and f"?{HIDDEN}")


def without_user(url: str) -> str:
    return _USER.sub(r"\1", url)


def _check(place: str | None) -> str | None:
    scheme = scheme_of(place or "")
    if scheme and scheme not in SCHEMES:
        raise ValueError(f"begins with {scheme}://, which is not read: a path, or {'://, '.join(SCHEMES[:-1])}://")
    if scheme == "hf" and not re.match("hf://datasets/[^/]+/[^/]+", place):
        raise ValueError(f"must have the form {HF_FORM}")
    return place


def _shown(place: str | None) -> str | None:
    return place and redacted(place)


# Types of keys whose value is a path or an address. Whatever is written of a config, a run's files included, is redacted.
Place = Annotated[str, AfterValidator(_check), PlainSerializer(_shown)]
OptionalPlace = Annotated[str | None, AfterValidator(_check), PlainSerializer(_shown)]


def refuse_remote(place: str, key: str) -> None:
    """Raise UserError for an address where only a path will do."""
    if is_remote(place):
        raise UserError(f"{key}: {redacted(place)}: must be a path of this machine")
