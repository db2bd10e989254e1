"""What a .glb or .gltf announces, held against the bytes that it has. Each check returns the files that it names."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from rendering.safety.companions import MAX_COMPANIONS, is_data, resolve_uri, unreadable
from rendering.safety.textures import check_texture

# What compression may expand to, and accessors without bytes of their own (all zeros, or sparse).
MAX_UNBACKED_BYTES = 2 << 30
_COMPONENT_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")
_IMAGE_HEADER_BYTES = 4 << 20
_NOT_FOR_PIL = ("image/ktx2", "image/vnd-ms.dds")  # a renderer's to refuse
_NOT_FOR_PIL_URI = re.compile(r"data:image/(ktx2|vnd-ms\.dds)|(?!data:).*\.(ktx2|dds)$", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class _Buffer:
    """Where a buffer's bytes are: `size` of them from `start` of a file, or in a data URI.

    A buffer without bytes has size 0, no file and no data.
    """

    size: int
    file: Path | None = None
    start: int = 0
    data: bytes = b""

    def read(self, offset: int, length: int) -> bytes:
        if self.file is None:
            return self.data[offset : offset + length]
        with open(self.file, "rb") as file:
            file.seek(self.start + offset)
            return file.read(length)


def check_glb(path: Path) -> list[Path]:
    """Return the files that it names. Raises Failure."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(20)
        if head[:4] != b"glTF" or len(head) < 20:
            raise unreadable("not a .glb file" if head[:4] != b"glTF" else "cut off within its header")
        version, length, json_size = (int.from_bytes(head[at : at + 4], "little") for at in (4, 8, 12))
        if version != 2:
            raise unreadable(f"glTF version {version}, only 2 is read")
        if length > size or 20 + json_size > length or head[16:20] != b"JSON":
            raise unreadable(f"cut off or damaged: announces {length:,} bytes, the file holds {size:,}")
        text = file.read(json_size)
        chunk = file.read(8)
        binary = None
    if len(chunk) == 8 and chunk[4:] == b"BIN\0":
        held = int.from_bytes(chunk[:4], "little")
        if 28 + json_size + held > size:
            raise unreadable(f"its binary chunk announces {held:,} bytes, the file ends before")
        binary = _Buffer(held, path, 28 + json_size)
    return _check(path.parent, text, binary)


def check_gltf(path: Path) -> list[Path]:
    """Return the files that it names. Raises Failure."""
    return _check(path.parent, path.read_bytes(), None)


def _check(folder: Path, text: bytes, binary: _Buffer | None) -> list[Path]:
    try:
        gltf = json.loads(text)
        if not str(gltf["asset"]["version"]).startswith("2."):
            raise unreadable(f"glTF version {gltf['asset']['version']}, only 2 is read")
        for kind in ("buffers", "images"):
            if len(gltf.get(kind, [])) > MAX_COMPANIONS:
                raise unreadable(f"holds {len(gltf[kind]):,} {kind}, more than {MAX_COMPANIONS:,}")
        buffers = [_open_buffer(folder, item, index, binary) for index, item in enumerate(gltf.get("buffers", []))]
        views = gltf.get("bufferViews", [])
        expands = sum(_check_buffer(index, *pair) for index, pair in enumerate(zip(gltf.get("buffers", []), buffers)))
        for index, view in enumerate(views):
            _check_view(index, view, gltf["buffers"], buffers)
        expands += sum(_check_accessor(index, item, views) for index, item in enumerate(gltf.get("accessors", [])))
        if expands > MAX_UNBACKED_BYTES:
            raise unreadable(f"announces {expands / 2**30:,.1f} GiB that the file does not hold")
        images = [
            _check_image(folder, index, item, views, buffers) for index, item in enumerate(gltf.get("images", []))
        ]
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise unreadable("not glTF: its JSON cannot be read") from None
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise unreadable(f"not glTF: its JSON has another structure ({type(error).__name__}: {error})") from None
    files = [buffer.file for buffer in buffers if buffer.file and buffer is not binary] + [
        file for file in images if file
    ]
    return list(dict.fromkeys(files))


def _number(item: dict, name: str, default: int | None = None) -> int:
    value = item[name] if default is None else item.get(name, default)
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is {value!r}")
    return value


def _open_buffer(folder: Path, item: dict, index: int, binary: _Buffer | None) -> _Buffer:
    uri = item.get("uri")
    if uri is None:
        return binary if index == 0 and binary else _Buffer(0)
    found = resolve_uri(folder, uri)
    return _Buffer(len(found), data=found) if isinstance(found, bytes) else _Buffer(found.stat().st_size, found)


def _check_buffer(index: int, item: dict, buffer: _Buffer) -> int:
    """Return the bytes that it announces without holding any, as the place does to which a compressed view is unpacked."""
    announced = _number(item, "byteLength")
    if any(name in item.get("extensions", {}) for name in _MESHOPT) and buffer.size == 0:
        return announced
    if announced > buffer.size:
        raise unreadable(f"buffer {index} announces {announced:,} bytes, the file holds {buffer.size:,}")
    return 0


def _check_view(index: int, view: dict, announced: list[dict], buffers: list[_Buffer]) -> None:
    parts = [(view, _number(announced[_number(view, "buffer")], "byteLength"))]
    packed = next((view["extensions"][name] for name in _MESHOPT if name in view.get("extensions", {})), None)
    if packed is not None:
        parts.append((packed, buffers[_number(packed, "buffer")].size))
    for part, size in parts:
        if _number(part, "byteOffset", 0) + _number(part, "byteLength") > size:
            raise unreadable(f"bufferView {index} reaches beyond its buffer of {size:,} bytes")


def _check_accessor(index: int, item: dict, views: list[dict]) -> int:
    """Return the bytes that it announces without a view that holds them."""
    element = _COMPONENT_BYTES[item["componentType"]] * _COMPONENTS[item["type"]]
    count = _number(item, "count")
    unbacked = 0
    if "bufferView" in item:
        _check_reach(index, item, count, element, views)
    else:
        unbacked = count * element
    if "sparse" in item:
        sparse = item["sparse"]
        changed = _number(sparse, "count")
        if changed > count:
            raise unreadable(f"accessor {index} changes {changed:,} of {count:,} elements")
        _check_reach(index, sparse["indices"], changed, _COMPONENT_BYTES[sparse["indices"]["componentType"]], views)
        _check_reach(index, sparse["values"], changed, element, views)
    return unbacked


def _check_reach(index: int, item: dict, count: int, element: int, views: list[dict]) -> None:
    view = views[_number(item, "bufferView")]
    stride = _number(view, "byteStride", element) or element
    reach = _number(item, "byteOffset", 0) + stride * (count - 1) + element if count else 0
    if reach > _number(view, "byteLength"):
        raise unreadable(
            f"accessor {index} announces {count:,} elements, which reach beyond its {view['byteLength']:,} bytes"
        )


def _check_image(folder: Path, index: int, item: dict, views: list[dict], buffers: list[_Buffer]) -> Path | None:
    """Return its file, if it has one of its own."""
    name = f"image {index}"
    uri = item.get("uri")
    for_pil = item.get("mimeType") not in _NOT_FOR_PIL
    if uri is None:
        view = views[_number(item, "bufferView")]
        length = min(_number(view, "byteLength"), _IMAGE_HEADER_BYTES)
        if for_pil:
            check_texture(buffers[_number(view, "buffer")].read(_number(view, "byteOffset", 0), length), name)
        return None
    found = resolve_uri(folder, uri)
    if for_pil and not _NOT_FOR_PIL_URI.match(uri):
        check_texture(found, name if is_data(uri) else f"the texture '{uri}'")
    return found if isinstance(found, Path) else None
