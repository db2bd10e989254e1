"""Files and folders that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    torso = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torso.write_text(text, encoding="utf-8")
        torso.replace(path)
    finally:
        torso.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name, and its place, once the block has ended well."""
    folder = folder.resolve()
    torso = folder.with_name(f".writing_{folder.name}_{os.getpid()}")
    shutil.rmtree(torso, ignore_errors=True)
    try:
        torso.mkdir(parents=True)
        yield torso
        if folder.exists():
            shutil.rmtree(folder)
        torso.rename(folder)
    finally:
        shutil.rmtree(torso, ignore_errors=True)
