"""Where the images of a record are read: files, addresses, or one archive."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from dataset.archives import MAX_IMAGE_BYTES, read_views
from dataset.local_copies import fetch
from dataset.records import OrbitRecord
from utils.errors import UserError
from utils.images import open_rgba
from utils.schemas import DataSettings
from utils.urls import is_remote, joined, redacted


def open_views(record: OrbitRecord, data: DataSettings, views: Sequence[int]) -> Iterator[tuple[str, Image.Image]]:
    """Open some of a record's views, one after the other, and give each with its path or address.

    Raises UserError with the record's file:line and the path or address.
    """
    try:
        for name, source in view_sources(record, data, views):
            yield name, open_rgba(source, name)
    except UserError as error:
        raise UserError(f"{record.place}: {error}") from None


def view_sources(record: OrbitRecord, data: DataSettings, views: Sequence[int]) -> Iterator[tuple[str, Path | bytes]]:
    """Give some of a record's views as files, or as what files hold. Raises UserError."""
    if record.archive is not None:
        files = read_views(record.archive, record.image_paths, views, data)
        for view, content in zip(views, files):
            yield f"{record.archive.path}: {record.image_paths[view]}", content
        return
    for view in views:
        path = record.image_paths[view]
        if is_remote(data.root):
            url = joined(data.root, path)
            yield redacted(url), fetch(url, data, MAX_IMAGE_BYTES)
        else:
            yield str(Path(data.root, path)), Path(data.root, path)


def lacking(record: OrbitRecord, root: str) -> str | None:
    """Return the first of a record's files that is not there, or None. Files that lie elsewhere are not looked for."""
    if is_remote(root):
        return None
    paths = record.image_paths if record.archive is None else [record.archive.path]
    return next((path for path in paths if not Path(root, path).is_file()), None)
