"""The files that an asset names: which they are, and whether they lie in its own folder.

Both renderers use this too, one of them inside Blender's Python, so it needs the standard library only.
"""

import base64
import binascii
import mmap
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from rendering.failure import Failure

MAX_COMPANIONS = 4096  # files that one asset may name
# A line may go on after a backslash. Blender takes control characters and backslashes before a word for blanks.
_CONTINUED = re.compile(rb"\\\r?\n")
_MTLLIB = re.compile(
    rb"^[\x00-\x09\x0b-\x20\\]*mtllib(?:[\x00-\x09\x0b-\x20]|\\\r?\n)+((?:\\\r?\n|[^\n])*)", re.MULTILINE
)


def unreadable(reason: str) -> Failure:
    return Failure("unreadable", reason)


def companion(folder: Path, name: str) -> Path:
    """Return the file that an asset in `folder` calls `name`. Raises Failure if it is missing, or elsewhere, links included."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name):  # http:, file:, C:
        raise unreadable(f"names the file '{name}', which is outside its folder")
    try:
        path = (folder / name.replace("\\", "/")).resolve()
        inside = path.is_relative_to(folder.resolve())
        there = path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, links in a circle
        raise unreadable(f"names the file '{name}', which cannot be") from None
    if not inside:
        raise unreadable(f"names the file '{name}', which is outside its folder")
    if not there:
        raise unreadable(f"names the file '{name}', which is missing")
    return path


def resolve_uri(folder: Path, uri: str) -> Path | bytes:
    """Return what a glTF URI stands for: a file in `folder`, or the bytes that it holds itself. Raises Failure."""
    if not is_data(uri):
        return companion(folder, text(unquote_to_bytes(uri)))
    head, comma, body = uri.partition(",")
    if not comma:
        raise unreadable("a data URI without data")
    try:
        return base64.b64decode(body) if head.lower().endswith(";base64") else unquote_to_bytes(body)
    except (binascii.Error, ValueError):  # ValueError: letters beyond ASCII
        raise unreadable("a data URI that is not base64") from None


def is_data(uri: str) -> bool:
    return uri[:5].lower() == "data:"


def obj_libraries(path: Path) -> list[Path]:
    """Return the .mtl files of an .obj, in the order in which it names them.

    NAME.mtl beside NAME.obj is one too: Blender reads it although nothing names it. A line that is the name of no one
    file names several. Raises Failure if one is outside the folder, or missing.
    """
    found = []
    names = _library_names(path)
    if sum(1 + len(name.split()) for name in names) > MAX_COMPANIONS:
        raise unreadable(f"names more .mtl files than {MAX_COMPANIONS:,}")
    for name in names:
        try:
            found.append(companion(path.parent, name))
        except Failure:
            if len(name.split()) < 2:
                raise
            found += [companion(path.parent, part) for part in name.split()]
    beside = path.with_suffix(".mtl")
    if beside.exists():
        found.append(companion(path.parent, beside.name))
    return list(dict.fromkeys(found))


def shared_library_lines(path: Path) -> list[str]:
    """Return what follows the `mtllib` of an .obj in lines that are the name of no one file."""
    return [name for name in _library_names(path) if not (path.parent / name.replace("\\", "/")).is_file()]


def _library_names(path: Path) -> list[str]:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        names = [text(_CONTINUED.sub(b"  ", match[1]).strip()) for match in _MTLLIB.finditer(data)]
    return [name[1:-1] if re.fullmatch('".+"', name) else name for name in names]


def text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
