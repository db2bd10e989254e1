"""Objaverse objects by their uids, through the `objaverse` package: fetched one at a time, removed when they are rendered.

Written against version 0.1.7's code; nobody has run it against the network yet.
"""

import http.client
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dataset.rendering.assets import Asset, Fetched, check_ids
from dataset.rendering.failure import Failure
from utils.config import UserError


class ObjaverseList:
    """The uids of a text file, one a line; `#` starts a comment."""

    def __init__(self, path: Path, licenses: Sequence[str]):
        """Raises UserError with file:line, or if the package is missing."""
        try:
            import objaverse
        except ImportError:
            raise UserError(f"{path}: a list of Objaverse uids takes `pip install objaverse`") from None
        self.package, self.licenses = objaverse, licenses
        self._one_at_a_time = threading.Lock()  # the package's index files are written without one
        self.assets = []
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            uid = line.partition("#")[0].strip()
            if uid and not re.fullmatch(r"[0-9a-f]{32}", uid):
                raise UserError(
                    f"{path}:{number}: expected an Objaverse uid of 32 hexadecimal digits, found '{uid[:80]}'"
                )
            if uid:
                self.assets.append(Asset(uid, f"objaverse:{uid}"))
        if not self.assets:
            raise UserError(f"{path}: holds no Objaverse uid")
        self.assets.sort(key=lambda asset: asset.id)
        check_ids(self.assets)

    @contextmanager
    def fetched(self, asset: Asset) -> Iterator[Fetched]:
        """Removed afterwards, unless it had been there before: then it is the user's. Raises Failure."""
        with self._one_at_a_time:
            try:
                license_name = self._license(asset.id)
                kept = any(Path(self.package.BASE_PATH).glob(f"*/glbs/*/{asset.id}.glb"))
                path = Path(self.package.load_objects([asset.id], download_processes=1)[asset.id])
            except KeyError:
                raise Failure("unreadable", "Objaverse has no such object") from None
            except (OSError, http.client.HTTPException) as error:  # urllib's are OSErrors
                raise Failure("download", str(error)) from None
        try:
            yield Fetched(path, {"license": license_name})
        finally:
            if not kept:
                path.unlink(missing_ok=True)

    def _license(self, uid: str) -> str:
        name = str(self.package.load_annotations([uid])[uid].get("license"))
        if self.licenses and name not in self.licenses:
            raise Failure("filtered", f"its licence is {name}, not one of render.licenses")
        return name
