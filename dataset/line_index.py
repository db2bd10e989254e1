"""Where the records of a large jsonl begin, kept in a hidden file beside it, so that only the first opening reads every line.

It is used only while the jsonl is the very file that was read: of the same size, and not written to since. Whatever reads
a record by it parses and checks the line anew, so an index can make nothing pass that would have been refused.
"""

import errno
import json
import os
import zlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from utils.files import new_file

SMALLEST = 16 << 20  # bytes; a smaller file is read in less than a second
CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def index_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.index")


def identity(status: os.stat_result, rules: str) -> dict[str, str]:
    """What an index holds for: this content of the jsonl, and what a line was checked for."""
    return {"size": str(status.st_size), "written": f"{status.st_mtime_ns} {status.st_ctime_ns}", "rules": rules}


def read_index(path: Path, wanted: dict[str, str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the byte at which each record begins (int64) and the number of its line (int32); None if no index fits."""
    if not index_path(path).is_file():
        return None
    try:
        with safe_open(index_path(path), "np") as file:
            found = file.metadata() or {}
            offsets = file.get_tensor("offsets")
            lines = file.get_tensor("lines")
    except (OSError, SafetensorError):
        return None
    if found != wanted | {"checksum": _checksum(offsets, lines)}:
        return None
    return offsets, lines


def write_index(path: Path, identity: dict[str, str], offsets: np.ndarray, lines: np.ndarray) -> None:
    """Write it if the place lets us: without it, the next opening takes as long as this one."""
    metadata = identity | {"checksum": _checksum(offsets, lines)}
    try:
        with new_file(index_path(path)) as file:
            file.write(save({"offsets": offsets, "lines": lines}, metadata))
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise


def _checksum(offsets: np.ndarray, lines: np.ndarray) -> str:
    return json.dumps([zlib.crc32(offsets), zlib.crc32(lines)])
