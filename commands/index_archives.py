"""`main.py index_archives`: the lines of a jsonl, with where the views lie in archives, so that an orbit is read in one piece."""

import sys
from pathlib import Path

from tqdm import tqdm

from dataset.archive_index import add_archive
from dataset.records import MAX_LINE_BYTES
from utils.errors import UserError
from utils.files import new_file, open_file
from utils.schemas_import import IndexArchivesConfig


def index_archives(cfg: IndexArchivesConfig) -> None:
    """Raises UserError with file:line for the first record whose views are in no archive."""
    meta = Path(cfg.index_archives.meta)
    out = Path(cfg.index_archives.out)
    root = Path(cfg.index_archives.root)
    out.parent.mkdir(parents=True, exist_ok=True)
    archives = set()
    count = 0
    with open_file(meta) as file, new_file(out) as written:
        lines = iter(lambda: file.readline(MAX_LINE_BYTES), b"")
        for number, line in enumerate(tqdm(lines, unit="orbit", disable=not sys.stderr.isatty()), start=1):
            if line.strip():
                text, archive = add_archive(line, f"{meta}:{number}", root)
                written.write(f"{text}\n".encode())
                archives.add(archive)
                count += 1
        if not count:
            raise UserError(f"{meta}: holds no record")
    print(f"{out}: {count} orbits in {len(archives)} archives; train with data.meta={out} data.root={root}")
