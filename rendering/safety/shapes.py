"""What an .obj, a .ply or an .stl announces, held against the bytes that it has. Each check returns the files that it names."""

import mmap
import os
import re
from itertools import takewhile
from pathlib import Path

from rendering.failure import Failure
from rendering.safety.companions import MAX_COMPANIONS, companion, obj_libraries, text, unreadable
from rendering.safety.textures import check_texture

MAX_LIBRARY_BYTES = 64 << 20  # an .mtl is read whole
SCANNED_TEXTURES = "materials/textures"  # of Google Scanned Objects, beside their meshes/
_HEADER_BYTES = 1 << 16  # a .ply's header is shorter
_PLY_BYTES = {"char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "float": 4, "double": 8}
_PLY_BYTES |= {"int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "float32": 4, "float64": 8}
_BLANKS = bytes(range(33)) + b"\\"
_PLY_COLOUR = re.compile(r"(?P<kind>[a-z]+_)?(red|green|blue)", re.IGNORECASE)
# Options of an .mtl's texture lines, and how many numbers (or fewer) follow each; others are followed by one word.
_MTL_NUMBERS = {b"-o": 3, b"-s": 3, b"-t": 3, b"-mm": 2, b"-bm": 1}
_MTL_WORDS = (b"-blendu", b"-blendv", b"-boost", b"-texres", b"-clamp", b"-imfchan", b"-type", b"-cc")


def check_obj(path: Path) -> list[Path]:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"\0") >= 0 or not re.search(rb"^[^\S\n]*v\s", content, re.MULTILINE):
            raise unreadable("not an .obj file: no text with vertices")
    libraries = obj_libraries(path)
    if any(library.stat().st_size > MAX_LIBRARY_BYTES for library in libraries):
        raise unreadable(f"an .mtl of more than {MAX_LIBRARY_BYTES >> 20} MiB")
    textures = dict.fromkeys((library, name) for library in libraries for name in _textures_of(library))
    if len(textures) > MAX_COMPANIONS:
        raise unreadable(f"names {len(textures):,} textures, more than {MAX_COMPANIONS:,}")
    if any(library.parent != path.parent.resolve() for library, _ in textures):
        raise unreadable("its .mtl is in another folder, and renderers disagree on where its textures then are")
    found = [_texture(path.parent, name) for _, name in textures]
    for texture, (_, name) in zip(found, textures):
        check_texture(texture, f"the texture '{name}'")
    return [*libraries, *found]


def _texture(folder: Path, name: str) -> Path:
    """Return the file of a texture. Raises Failure as `companion` does, and says where one of Google Scanned Objects lies."""
    try:
        return companion(folder, name)
    except Failure:
        if re.search(r"[/\\]", name) or not os.path.isfile(folder.parent / SCANNED_TEXTURES / name):
            raise
        raise unreadable(
            f"names the texture '{name}', which is not in its folder but in ../{SCANNED_TEXTURES}: copy it beside the .obj"
        ) from None


def _textures_of(library: Path) -> list[str]:
    """Read lines as Blender does: they may go on after a backslash, and control characters are blanks."""
    lines = re.sub(rb"\\\r?\n", b"  ", library.read_bytes()).split(b"\n")
    named = [re.split(rb"[\x00-\x20]+", line.lstrip(_BLANKS).rstrip()) for line in lines]
    return [text(name) for words in named if _names_texture(words[0].lower()) and (name := _without_options(words))]


def _names_texture(word: bytes) -> bool:
    return word.startswith(b"map_") or word in (b"bump", b"disp", b"decal", b"norm", b"refl")


def _without_options(words: list[bytes]) -> bytes:
    """Return the name after the options. It may hold spaces."""
    place = 1
    while place < len(words) and words[place] in (*_MTL_NUMBERS, *_MTL_WORDS):
        most = _MTL_NUMBERS.get(words[place], 0)
        following = words[place + 1 : place + 1 + most]
        numbers = list(takewhile(lambda word: re.fullmatch(rb"[-+.\deE]+", word), following))
        place += 1 + (len(numbers) if most else 1)
    return b" ".join(words[place:])


def check_ply(path: Path) -> list[Path]:
    with open(path, "rb") as file:
        head = file.read(_HEADER_BYTES)
    end = re.search(rb"^end_header[ \t]*\r?\n", head, re.MULTILINE)
    if not head.startswith(b"ply") or not end:
        raise unreadable("not a .ply file: no header")
    lines = [line.split() for line in head[: end.start()].decode("latin-1").splitlines()]
    binary = any(words[:1] == ["format"] and words[1:2] != ["ascii"] for words in lines)
    announced = _ply_bytes(lines, binary)
    held = path.stat().st_size - end.end() + 1  # ASCII needs no last newline
    if announced > held:
        raise unreadable(f"its header announces at least {announced:,} bytes, the file holds {held - 1:,}")
    _check_ply_look(lines)
    return []


def _check_ply_look(lines: list[list[str]]) -> None:
    """Raises Failure for what both renderers would leave out in silence: of colours they draw the vertices' red, green, blue."""
    element = ""
    for words in lines:
        if words[:1] == ["comment"] and words[1:2] and words[1].lower() == "texturefile":
            raise Failure("refused", "not drawn: a .ply's texture")
        if words[:1] == ["element"]:
            element = words[1]
        colour = words[:1] == ["property"] and _PLY_COLOUR.fullmatch(words[-1])
        if colour and (element != "vertex" or colour["kind"]):
            raise Failure("refused", f"not drawn: a .ply's {words[-1]} of each {element}")


def _ply_bytes(lines: list[list[str]], binary: bool) -> int:
    """Return the least that the announced elements take: a list takes its length, a number in ASCII a digit and a space."""
    announced = 0
    count = 0
    try:
        for words in lines:
            if words[:1] == ["element"]:
                count = int(words[2])
                if count < 0:
                    raise ValueError
            elif words[:1] == ["property"]:
                kind = words[2] if words[1] == "list" else words[1]
                announced += count * (_PLY_BYTES[kind] if binary else 2)
    except (IndexError, KeyError, ValueError):
        raise unreadable("not a .ply file: a header that makes no sense") from None
    return announced


def check_stl(path: Path) -> list[Path]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(_HEADER_BYTES)
    count = int.from_bytes(head[80:84], "little")
    if len(head) >= 84 and size == 84 + 50 * count:
        return []
    if re.match(rb"\s*solid\b", head, re.IGNORECASE) and b"facet" in head.lower():
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if not re.search(rb"endsolid", content[-_HEADER_BYTES:], re.IGNORECASE):
                raise unreadable("a text .stl that is cut off: no endsolid")
        return []
    if len(head) < 84:
        raise unreadable("not an .stl file: shorter than a header")
    if size > 84 + 50 * count:
        raise unreadable(f"holds {size - 84 - 50 * count:,} bytes beyond the {count:,} triangles that it announces")
    raise unreadable(f"announces {count:,} triangles, the file holds {(size - 84) // 50:,}")
