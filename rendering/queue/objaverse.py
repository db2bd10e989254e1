"""Objaverse objects by their uids, through the `objaverse` package: fetched when needed, removed when rendered.

This is written against the code of version 0.1.7. Nobody has run it against the network yet.
"""

import gzip
import http.client
import re
import socket
import urllib.error
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rendering.failure import Failure
from rendering.queue.assets import Asset, Fetched
from utils.errors import UserError
from utils.files import read_lines

NUM_INDEX_FILES = 161  # object-paths.json.gz and 160 of metadata
GONE = (404, 410)  # HTTP's answers for what will not be there later either
SILENCE_S = 60.0  # the longest that a server may send nothing


class ObjaverseList:
    """The objects whose uids a text file holds, one a line; `#` starts a comment."""

    def __init__(self, path: Path, licenses: Sequence[str]):
        """Raises UserError with file:line, or if the package is missing."""
        try:
            import objaverse
        except ImportError:
            raise UserError(f"{path}: a list of Objaverse uids takes `pip install objaverse`") from None
        socket.setdefaulttimeout(SILENCE_S)  # the package sets none, and a stalled connection would hang for ever
        self.package = objaverse
        self.licenses = licenses
        self.cache = Path(objaverse.BASE_PATH)
        self._index_is_whole = False
        uids: set[str] = set()
        for place, line in read_lines(path):
            uid = line.partition("#")[0].strip()
            if uid and not re.fullmatch(r"[0-9a-f]{32}", uid):
                raise UserError(f"{place}: expected an Objaverse uid of 32 hexadecimal digits, found '{uid[:80]}'")
            if uid in uids:
                raise UserError(f"{place}: {uid} is in the list already")
            if uid:
                uids.add(uid)
        if not uids:
            raise UserError(f"{path}: holds no Objaverse uid")
        self.assets = [Asset(uid, f"objaverse:{uid}") for uid in sorted(uids)]
        self.left_out: list[str] = []  # as in AssetFolder

    @contextmanager
    def fetched(self, asset: Asset, index_lock: AbstractContextManager) -> Iterator[Fetched]:
        """Fetch a file and remove it afterwards, unless it was there before, for then it is the user's. Raises Failure."""
        with self._index(index_lock):
            license_name = self._license(asset.id)
        with self._removed_if_ours(asset.id):
            with self._download_failures():
                try:
                    path = self.package.load_objects([asset.id], download_processes=1).get(asset.id)
                except urllib.error.HTTPError as error:
                    if error.code not in GONE:
                        raise
                    raise Failure("unreadable", f"its file is no longer there: {error}") from None
            if path is None:
                raise Failure("download", "the objaverse package fetched nothing and gave no reason")
            yield Fetched(Path(path), {"license": license_name})

    @contextmanager
    def _index(self, lock: AbstractContextManager) -> Iterator[None]:
        """Read the index alone till all its files are there: the package fetches each in place, when it first reads it."""
        if self._index_is_whole:
            yield
            return
        with lock:
            before = self._index_files()
            try:
                yield
            except Failure as failure:
                if failure.kind == "download":  # it would stay torn, for the package fetches only what is missing
                    for path in self._index_files() - before:
                        path.unlink(missing_ok=True)
                raise
            self._index_is_whole = len(self._index_files()) >= NUM_INDEX_FILES

    def _index_files(self) -> set[Path]:
        return {*self.cache.glob("*/object-paths.json.gz"), *self.cache.glob("*/metadata/*.json.gz")}

    def _license(self, uid: str) -> str:
        with self._download_failures():
            try:
                about = self.package.load_annotations([uid]).get(uid)
            except KeyError as error:  # this is how the package says that there is none
                if error.args != (uid,):
                    raise
                about = None
        if about is None:
            raise Failure("unreadable", "Objaverse has no such object")
        name = str(about.get("license"))
        if self.licenses and name not in self.licenses:
            raise Failure("filtered", f"its licence is {name}, not one of render.licenses")
        return name

    @contextmanager
    def _removed_if_ours(self, uid: str) -> Iterator[None]:
        """Remove the file afterwards if we fetched it.

        A note, written before the fetching and removed after the removal, tells what a killed process fetched from what the user
        has. It is beside the cache and not in render.out, because machines that share that may have caches of their own.
        """
        note = self.cache / "svd_mv_fetched" / uid
        with self._download_failures():
            ours = note.exists() or not any(self.cache.glob(f"*/glbs/*/{uid}.glb"))
            if ours:
                note.parent.mkdir(parents=True, exist_ok=True)
                note.touch()
        try:
            yield
        finally:
            if ours:
                for path in self.cache.glob(f"*/glbs/*/{uid}.glb*"):  # also the .tmp of a fetching that broke off
                    path.unlink(missing_ok=True)
                note.unlink(missing_ok=True)

    @contextmanager
    def _download_failures(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
            index = f"{self.cache}/*/object-paths.json.gz or metadata/*.json.gz"
            raise Failure("download", f"a torn index, remove {index}: {type(error).__name__}: {error}") from None
        except (OSError, http.client.HTTPException) as error:  # urllib's are OSErrors
            raise Failure("download", str(error) or type(error).__name__) from None
