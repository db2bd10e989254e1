"""Reading what lies elsewhere, through fsspec: whole files, byte ranges, sizes and names. A path of this machine never comes here.

Every request has limits of time and bytes, and is repeated where that can help. What is wrong in the end is one UserError
with the address, in which no secret is shown.
"""

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from utils.errors import UserError, cut
from utils.retries import Refused, Short, repeated
from utils.urls import HF_FORM, redacted, scheme_of

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

ATTEMPT_S = 60.0  # the longest that one attempt may take
SILENCE_S = 20.0  # the longest that a server may send nothing, over HTTP
# What is thrown away at most where a server sends a file from its beginning, whatever was asked for.
MAX_SKIPPED_BYTES = 64 << 20
PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}  # of the other schemes: aiohttp
_opened: dict[tuple[int, str], "AbstractFileSystem"] = {}


class Facts(NamedTuple):
    size: int  # bytes
    version: str  # is another one when the file was written anew, if its server tells


class _Answer(NamedTuple):
    data: bytes
    size: int | None  # of the whole file
    version: str


def read_file(url: str, limit: int) -> bytes:
    """Return a whole file. Raises UserError if it cannot be read or has more than `limit` bytes, of which no more are read."""
    data = repeated(url, lambda: _read(url, 0, limit + 1, whole=True))
    if len(data) > limit:
        raise UserError(f"{redacted(url)}: is larger than {limit >> 10:,} KiB: it was not read to its end")
    return data


def read_range(url: str, start: int, end: int, size: int | None = None) -> bytes:
    """Return bytes `start` to `end` of a file, in one request.

    Raises UserError if it cannot be read, ends before, or is not `size` bytes long, where its server tells.
    """

    def read() -> bytes:
        data = _read(url, start, end, size=size)
        if len(data) < end - start:
            raise Short(f"it ended after {len(data):,} of {end - start:,} bytes")
        return data

    return repeated(url, read) if end > start else b""


def look_at(url: str) -> Facts:
    """Return the size and version of a file. Raises UserError if it is not there, or its server does not tell its size."""
    return repeated(url, lambda: _look_at(url))


def list_names(url: str) -> set[str] | None:
    """Return the names of the files in a folder, or None where there is no way to ask. Raises UserError."""
    if _is_http(url):
        return None

    def names() -> set[str]:
        found = _call(_file_system(scheme_of(url)), "ls", url, detail=False)
        return {path.rstrip("/").rpartition("/")[2] for path in found}

    return repeated(url, names)


def _is_http(url: str) -> bool:
    return scheme_of(url) in ("http", "https", "hf")


def _read(url: str, start: int, end: int, whole: bool = False, size: int | None = None) -> bytes:
    """Return at most the bytes from `start` to `end`."""
    if not _is_http(url):
        return _call(_file_system(scheme_of(url)), "cat_file", url, start=start, end=end)
    answer = _get(url, start, end, whole)
    if size is not None and answer.size not in (size, None):
        raise UserError(f"{redacted(url)}: has {answer.size:,} bytes instead of {size:,}: it was written anew")
    return answer.data


def _look_at(url: str) -> Facts:
    if _is_http(url):
        answer = _get(url, 0, 1)  # an address that is signed for GET does not answer HEAD
        if answer.size is None:
            raise UserError(f"{redacted(url)}: its server does not say how long it is")
        return Facts(answer.size, answer.version)
    found = _call(_file_system(scheme_of(url)), "info", url)
    marks = [found.get(key) for key in ("ETag", "etag", "LastModified", "mtime", "updated", "created")]
    return Facts(found["size"], " ".join(str(mark) for mark in (found["size"], *marks) if mark))


def _call(file_system: "AbstractFileSystem", method: str, url: str, **arguments):
    """Call a method of a file system that is not HTTP's. One that is asynchronous is given up after ATTEMPT_S."""
    path = file_system._strip_protocol(url)
    if not file_system.async_impl:
        return getattr(file_system, method)(path, **arguments)
    from fsspec.asyn import sync

    return sync(file_system.loop, getattr(file_system, f"_{method}"), path, timeout=ATTEMPT_S, **arguments)


def _get(url: str, start: int, end: int, whole: bool = False) -> _Answer:
    from fsspec.asyn import sync

    file_system = _file_system("http")
    return sync(file_system.loop, _get_over_http, file_system, url, start, end, whole, timeout=ATTEMPT_S)


async def _get_over_http(file_system, url: str, start: int, end: int, whole: bool) -> _Answer:
    """Read as fsspec's own `_cat_file`, but never more than was asked for, whatever the server sends."""
    from aiohttp import ClientTimeout
    from yarl import URL

    session = await file_system.set_session()
    url, headers = _hub_address(url) if scheme_of(url) == "hf" else (url, {})
    headers["Accept-Encoding"] = "identity"
    if not whole:
        headers["Range"] = f"bytes={start}-{end - 1}"
    timeout = ClientTimeout(total=ATTEMPT_S, sock_connect=SILENCE_S, sock_read=SILENCE_S)
    async with session.get(URL(url, encoded=True), headers=headers, timeout=timeout) as answer:
        size = answer.content_length
        begin = 0
        if answer.status == 206:
            begin, size = _content_range(answer.headers.get("Content-Range", ""), start)
        elif answer.status != 200:
            raise Refused(answer.status)
        if start - begin > MAX_SKIPPED_BYTES:
            raise UserError(f"{redacted(url)}: its server sends no parts of a file")
        data = bytearray()
        async for piece in answer.content.iter_any():
            data += piece
            if len(data) >= end - begin:
                break  # what is left is never read: the connection is closed
        marks = [answer.headers.get(key) for key in ("ETag", "Last-Modified")]
        return _Answer(bytes(data[start - begin : end - begin]), size, " ".join(map(str, (size, *marks))))


def _content_range(text: str, start: int) -> tuple[int, int | None]:
    """Return where the bytes of an answer begin, which must be `start`, and the size of the whole file."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text.strip())
    if not found or int(found[1]) != start:
        raise Short(f"other bytes came than those asked for: {cut(text) or 'no Content-Range'}")
    return start, None if found[2] == "*" else int(found[2])


def _hub_address(url: str) -> tuple[str, dict[str, str]]:
    """Return where the hub serves a file of a dataset, and the headers to ask with, the user's token among them."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    found = re.fullmatch(r"hf://datasets/([^/]+)/([^/@]+)(?:@([^/]+))?/(.+)", url.partition("?")[0])
    if not found:
        raise UserError(f"{redacted(url)}: must have the form {HF_FORM}")
    owner, name, revision, path = found.groups()
    return hf_hub_url(f"{owner}/{name}", path, repo_type="dataset", revision=revision), build_hf_headers()


def _file_system(scheme: str) -> "AbstractFileSystem":
    """Return this process's own file system. One of the process that forked it has a thread and connections which are not there.

    Those are kept, unused: to close them here would end them for the other process too. Raises UserError without its package.
    """
    key = (os.getpid(), scheme)
    if key in _opened:
        return _opened[key]
    try:
        import fsspec
        import fsspec.asyn

        if any(pid != os.getpid() for pid, _ in _opened):
            fsspec.asyn.reset_lock()
        options = {"use_listings_cache": False, "skip_instance_cache": True}
        if scheme == "http":
            # trust_env: proxies of the environment, passwords of ~/.netrc. An address to which we are sent on may be signed.
            client = {"trust_env": True, "auto_decompress": False, "requote_redirect_url": False}
            options["client_kwargs"] = client | {"read_bufsize": 1 << 20}
        _opened[key] = fsspec.filesystem(scheme, **options)
    except ImportError:
        package = PACKAGES.get(scheme, "'fsspec[http]'")
        raise UserError(f"{scheme}://: a package is missing to read it: pip install {package}") from None
    return _opened[key]
