"""One parquet file an object, of two kinds.

- `keys` and `values`: the files of a G-Objaverse object by name, `00000.png`, `00000.json` and so on.
- `view_id` and `image_png`: Dome-Objaverse. The file has no cameras: they follow from view_id by the data set's own rule.
"""

import math
from dataclasses import replace
from pathlib import Path

from dataset.importers.gobjaverse import from_blobs
from dataset.importers.source import Refusal, SourceItem, SourceObject, SourceView
from utils.camera import camera_to_world
from utils.errors import UserError, shown
from utils.files import open_file

MAX_BYTES = 1 << 30  # of an object's columns, unpacked
MAX_ROWS = 10_000
DOME_ELEVATIONS_DEG = (0, 30, 60, 90)  # a ring each, from azimuth 0 on +x, counter-clockwise
DOME_RING_VIEWS = 12
DOME_FOV_DEG = math.degrees(0.691150367)
DOME_DISTANCE = 1.0  # it differs by object, from 1.5 to 2.0, and the file does not say; no angle depends on it


def objects_in(files: set[str], folders: set[str]) -> tuple[list[str], bool]:
    """See gobjaverse.objects_in."""
    return sorted(name for name in files if name.endswith(".parquet")), True


def check_installed() -> None:
    """Raises UserError without pyarrow."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError("import_orbits.format=parquet needs `pip install pyarrow`") from None


def read(source: Path, item: SourceItem) -> SourceObject:
    """Raises Refusal, or UserError."""
    columns, license_ = _columns(item.path)
    if "keys" in columns:
        pairs = zip(columns["keys"], columns["values"])
        blobs = {_text(key): value for key, value in pairs if isinstance(value, bytes)}
        return replace(from_blobs(item.id, blobs), license=license_)
    return SourceObject(item.id, _dome_views(columns["view_id"], columns["image_png"]), license_)


def _columns(path: Path) -> tuple[dict[str, list], str | None]:
    """Return the columns that we need, and the licence that the file's metadata names under `license`."""
    import pyarrow
    import pyarrow.parquet

    try:
        with open_file(path) as file, pyarrow.parquet.ParquetFile(file) as table:
            names = set(table.schema_arrow.names)
            wanted = next((pair for pair in (("keys", "values"), ("view_id", "image_png")) if names >= {*pair}), None)
            if wanted is None:
                raise Refusal("unreadable", f"has neither keys and values nor view_id and image_png: {sorted(names)}")
            if table.metadata.num_rows > MAX_ROWS or _unpacked_bytes(table.metadata, wanted) > MAX_BYTES:
                raise Refusal("unreadable", "more than a parquet file of one object can hold")
            columns = table.read(columns=list(wanted)).to_pydict()
            license_ = (table.schema_arrow.metadata or {}).get(b"license", b"").decode(errors="replace")
            return columns, license_ or None
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise Refusal("unreadable", f"not a parquet file that can be read: {error}") from None


def _unpacked_bytes(metadata, columns: tuple[str, str]) -> int:
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    chunks = [group.column(index) for group in groups for index in range(group.num_columns)]
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in columns)


def _text(key: object) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else str(key)


def _dome_views(view_ids: list, images: list) -> tuple[SourceView, ...]:
    views: list[SourceView] = []
    for view_id, image in sorted(zip(view_ids, images), key=lambda row: str(row[0]).zfill(9)):
        if type(view_id) is not int or not 0 <= view_id < DOME_RING_VIEWS * len(DOME_ELEVATIONS_DEG):
            raise Refusal("unreadable", f"no Dome-Objaverse view has view_id {shown(view_id)}")
        ring, place = divmod(view_id, DOME_RING_VIEWS)
        camera = camera_to_world(place * 360 / DOME_RING_VIEWS, DOME_ELEVATIONS_DEG[ring], DOME_DISTANCE)
        blob = image if isinstance(image, bytes) else None
        views.append(SourceView(f"{view_id:05d}", camera, DOME_FOV_DEG, blob))
    return tuple(views)
