"""Which records of a meta file an evaluation measures: those of a list, or those whose ids have the lowest hashes."""

import hashlib
from pathlib import Path

from dataset.records import OrbitRecord, Records
from dataset.sources import lacking
from utils.errors import UserError, shown
from utils.files import file_name, read_lines
from utils.schemas import EvaluateSettings


def choose_records(records: Records, root: str, settings: EvaluateSettings) -> dict[str, int]:
    """Return {record id: index} of what is to be measured. Raises UserError if a record cannot be."""
    by_id = index_by_id(records)
    if settings.objects is not None:
        ids = read_ids(Path(settings.objects), by_id)
    else:
        ids = sorted(by_id, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[: settings.num_records]
    if settings.num_records and len(ids) != settings.num_records:
        where = settings.objects or settings.meta
        raise UserError(f"{where}: has {len(ids)} records, evaluate.num_records is {settings.num_records}")
    for name in ids:
        check_record(records[by_id[name]], root, settings)
    return {name: by_id[name] for name in ids}


def index_by_id(records: Records) -> dict[str, int]:
    """Return {record id: index} of all records. Raises UserError if the files of two would have the same name."""
    by_id: dict[str, int] = {}
    by_file_name: dict[str, str] = {}
    for index in range(len(records)):
        record = records[index]
        if not (name := file_name(record.id)):
            raise UserError(f"{record.place}: id {shown(record.id)} has no letter or digit in it to name files by")
        other = by_file_name.setdefault(name.casefold(), record.id)
        if other != record.id or record.id in by_id:
            raise UserError(f"{record.place}: id '{record.id}' cannot be told from '{other}' of an earlier line")
        by_id[record.id] = index
    return by_id


def read_ids(path: Path, known: dict[str, int]) -> list[str]:
    """Read a list of ids, one a line; # begins a comment. Raises UserError for an id that is unknown or stands there twice."""
    ids: list[str] = []
    for place, line in read_lines(path):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        if name not in known:
            raise UserError(f"{place}: '{name}' is not in the meta file")
        if name in ids:
            raise UserError(f"{place}: '{name}' stands twice")
        ids.append(name)
    if not ids:
        raise UserError(f"{path}: names no object")
    return ids


def check_record(record: OrbitRecord, root: str, settings: EvaluateSettings) -> None:
    """Raises UserError if a record lacks the input view or an image, or has another elevation than was asked for."""
    if settings.input_view >= len(record.image_paths):
        raise UserError(f"{record.place}: has {len(record.image_paths)} views, no input_view {settings.input_view}")
    if settings.elevations_deg is not None:
        low, high = settings.elevations_deg
        if not low <= min(record.elevations_deg) <= max(record.elevations_deg) <= high:
            raise UserError(
                f"{record.place}: elevation {record.elevations_deg[0]:g} is outside evaluate.elevations_deg,"
                f" {low:g} to {high:g}"
            )
    missing = lacking(record, root)
    if missing:
        raise UserError(f"{record.place}: {Path(root, missing)}: no such image file")
