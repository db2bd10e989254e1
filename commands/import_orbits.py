"""`main.py import_orbits`: renders with cameras, made by others -> the lines of svd_meta.jsonl that `train` reads.

Angles come from the cameras. Images stay where they are, but for those in parquet files.
"""

import signal
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from pydantic import RootModel

from dataset.importers import parquet
from dataset.importers.formats import FORMATS, detect, find_items
from dataset.importers.output import SETTINGS, ImportFolder
from dataset.importers.report import Counts, num_frames_for, summary, write_sheets
from dataset.importers.source import SourceItem
from dataset.importers.work import ImportTask, import_all
from utils.errors import UserError, shown
from utils.held_out import HELD_OUT_META, META
from utils.progress import Progress
from utils.reading import read_json
from utils.schemas_import import ImportOrbitsConfig
from utils.signals import STOPPING, StopSignals, end_at_once


class Licenses(RootModel[dict[str, str]]):
    """The content of import_orbits.licenses."""


def import_orbits(cfg: ImportOrbitsConfig) -> int:
    """Returns the exit code: 0, or 128 + n after signal n. Raises UserError if no object gives an orbit."""
    source = Path(cfg.import_orbits.source).absolute()
    out = Path(cfg.import_orbits.out).absolute()
    if not source.is_dir():
        raise UserError(f"import_orbits.source: {source} is not a folder")
    records_of = chooser(cfg)
    signals = StopSignals(*STOPPING, on_second=end_at_once)
    with ImportFolder(out) as folder, signals as stop:
        task = open_task(cfg, source, folder)
        items = find_items(source, out, task.format)
        if cfg.import_orbits.retry_failures:
            folder.forget_failures()
        look_at_all(items, task, folder, cfg.import_orbits.num_processes, stop.requested)
        if stop.number is not None:
            print(f"stopped by {signal.Signals(stop.number).name}; the same command goes on from here")
            return 128 + stop.number
        ids = [item.id for item in items]
        root = out if task.format == "parquet" else source  # of the images
        folder.write_failures(ids)
        folder.write_meta(ids, cfg.import_orbits.held_out, records_of)
        write_sheets(items, task, root, folder, cfg.import_orbits.sheet_rows)
        print_summary(cfg, Counts(folder.lines(ids), records_of), root, out)
    return 0


def open_task(cfg: ImportOrbitsConfig, source: Path, folder: ImportFolder) -> ImportTask:
    """Find the format, and hold the folder to the settings that it was made with. Raises UserError."""
    name = cfg.import_orbits.format
    if name == "auto":
        name = folder.saved_format() or detect(source, folder.folder)
    if name not in FORMATS:
        raise UserError(f"{folder.folder / SETTINGS}: the format {shown(name)} is none of {', '.join(FORMATS)}")
    if name == "parquet":
        parquet.check_installed()
    rules = {"min_views": cfg.import_orbits.min_views, "needs_alpha": cfg.import_orbits.needs_alpha}
    folder.check_settings({"source": str(source), "format": name} | rules)
    return ImportTask(source, name, folder.folder, folder.staging, **rules)


def look_at_all(
    items: Sequence[SourceItem],
    task: ImportTask,
    folder: ImportFolder,
    num_processes: int,
    stop_requested: Callable[[], bool],
) -> None:
    """Write a line into the journal for every object that has none, until asked to stop."""
    done = folder.done()
    todo = [item for item in items if item.id not in done]
    with Progress(len(items), "objects", done=len(items) - len(todo)) as progress:
        try:
            for lines in import_all(todo, task, num_processes):
                folder.add(lines)
                progress.advance(len(lines))
                if stop_requested():
                    return
        except BrokenProcessPool:
            if not stop_requested():  # a signal to our group ends them too
                raise UserError(
                    "a process died, of memory perhaps: the same command goes on from here, and"
                    " import_orbits.num_processes=1 shows at which object"
                ) from None


def chooser(cfg: ImportOrbitsConfig) -> Callable[[dict], list[dict]]:
    """Return what chooses among the records of an object's line, and adds their licences. Raises UserError."""
    num_frames = cfg.import_orbits.num_frames or 1
    usual = cfg.import_orbits.license
    path = cfg.import_orbits.licenses
    given = read_json(Path(path), Licenses).root if path else {}

    def records_of(line: dict) -> list[dict]:
        chosen = [record for record in line["records"] if len(record["image_path"]) % num_frames == 0]
        names = [given.get(line["id"]) or record.get("license") or usual for record in chosen]
        return [record | ({"license": name} if name else {}) for record, name in zip(chosen, names)]

    return records_of


def print_summary(cfg: ImportOrbitsConfig, counts: Counts, root: Path, out: Path) -> None:
    """Raises UserError if there is no orbit."""
    print(summary(counts, out))
    num_frames = cfg.import_orbits.num_frames or num_frames_for(counts)
    if cfg.import_orbits.num_frames is None and len(counts.num_views) > 1:
        longest = max(counts.num_views)
        print(
            f"for longer orbits only, say import_orbits.num_frames={longest} to this command again: no object is read twice"
        )
    held_out = f" validation.meta={out / HELD_OUT_META}" if cfg.import_orbits.held_out else ""
    if num_frames == 1:
        print(f"these orbits cannot be trained together: {sorted(counts.num_views)} views have no number in common")
        return
    print(f"to train: data.root={root} data.meta={out / META}{held_out} data.num_frames={num_frames}")
