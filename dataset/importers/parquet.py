"""One parquet file an object, of two kinds.

- `keys` and `values`: the files of a G-Objaverse object by name, `00000.png`, `00000.json` and so on.
- `view_id` and `image_png`: Dome-Objaverse. The file has no cameras: they follow from view_id by the data set's own rule.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from dataset.importers.gobjaverse import from_blobs
from dataset.importers.source import MAX_BYTES, Refusal, SourceItem, SourceObject, SourceView, damage
from utils.camera import camera_to_world
from utils.errors import UserError, cut, shown
from utils.files import open_file

MAX_ROWS = 10_000
COLUMNS: tuple[dict[str, tuple[str, ...]], ...] = (  # of the two kinds, with the types that they may have
    {"keys": ("string", "large_string", "binary"), "values": ("binary", "large_binary")},
    {"view_id": ("int64", "int32", "int16", "int8", "uint8"), "image_png": ("binary", "large_binary")},
)
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
    import pyarrow.parquet

    with (
        open_file(path) as file,
        damage("not a parquet file that can be read"),
        pyarrow.parquet.ParquetFile(file) as table,
    ):
        types = {field.name: str(field.type) for field in table.schema_arrow}
        wanted = next((pair for pair in COLUMNS if types.keys() >= pair.keys()), None)
        if wanted is None:
            found = cut(", ".join(sorted(types)))
            raise Refusal("unreadable", f"has neither keys and values nor view_id and image_png, but {found}")
        for name, allowed in wanted.items():
            if types[name] not in allowed:
                raise Refusal("unreadable", f"its column {name} is {cut(types[name])}, not {allowed[0]}")
        if table.metadata.num_rows > MAX_ROWS or _unpacked_bytes(table.metadata, wanted) > MAX_BYTES:
            raise _too_large()
        license_ = (table.schema_arrow.metadata or {}).get(b"license", b"").decode(errors="replace")
        return _read_rows(table, wanted), license_ or None


def _read_rows(table, names: Iterable[str]) -> dict[str, list]:
    """Read row by row, and count: a value that stands in the file once may fill ten thousand rows."""
    columns: dict[str, list] = {name: [] for name in names}
    left = MAX_BYTES
    for row in table.iter_batches(batch_size=1, columns=list(columns)):
        left -= row.nbytes
        if left < 0:
            raise _too_large()
        for name, values in columns.items():
            values += row.column(name).to_pylist()
    return columns


def _too_large() -> Refusal:
    return Refusal("unreadable", "more than a parquet file of one object can hold")


def _unpacked_bytes(metadata, columns: Collection[str]) -> int:
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
