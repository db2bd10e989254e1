"""The keys of `import_orbits` and `index_archives`: see utils/schemas.py."""

from typing import Annotated, Literal

from pydantic import Field

from utils.config import Section, key
from utils.schemas import HeldOutPart


class ImportOrbitsSettings(Section):
    source: str = key(..., "a folder of renders with their cameras; nothing in it is changed", "folder")
    format: Literal["auto", "gobjaverse", "parquet", "transforms", "npy"] = key(
        "auto",
        "how cameras are written down; gobjaverse: folders or tars; parquet: a file an object; transforms:"
        " transforms.json; npy: world-to-camera beside each image; auto: as the first object has it",
    )
    out: str = key(..., "where svd_meta.jsonl, failures.jsonl and sheets go, and the images of parquet files", "folder")
    num_frames: Annotated[int, Field(ge=2, le=1000)] | None = key(
        None, "write only orbits that data.num_frames of this can train on; null: all", "views"
    )
    min_views: int = key(8, "fewest views of a ring", "views", ge=3, le=1000)
    needs_alpha: bool = key(True, "refuse a ring with an opaque image")
    held_out: HeldOutPart | None = key(
        None,
        "objects whose orbits go to svd_meta_held_out.jsonl: a share (0.02) or a number (50), by a hash of the id",
        "0 to 1, or objects",
    )
    license: str | None = key(None, "licence of the set, for records whose source names none")
    licenses: str | None = key(
        None, "a JSON file {object id: licence}; it goes before what the source and `license` say", "file"
    )
    retry_failures: bool = key(False, "look again at the objects in failures.jsonl")
    num_processes: int = key(4, "objects that are looked at together", "processes", ge=1, le=1024)
    sheet_rows: int = key(24, "orbits on accepted.png and rejected.png; 0: write none", "orbits", ge=0, le=1000)


class ImportOrbitsConfig(Section):
    import_orbits: ImportOrbitsSettings


class IndexArchivesSettings(Section):
    root: str = key(..., "the folder with the archives: data.root", "folder")
    meta: str = key(..., "svd_meta.jsonl of the orbits in them", "file")
    out: str = key(..., "the new jsonl, whose lines say where in an archive each view lies", "file")


class IndexArchivesConfig(Section):
    index_archives: IndexArchivesSettings
