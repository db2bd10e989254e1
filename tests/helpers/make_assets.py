"""Small 3D assets for the tests: one object of every format, and files that no renderer should be given.

`python tests/helpers/make_assets.py FOLDER` writes both kinds, to FOLDER/good and FOLDER/bad, with the same bytes each time.
"""

import io
import json
import struct
import sys
from pathlib import Path

import numpy as np
from PIL import Image

FACES = ((0, 1), (0, -1), (1, 1), (1, -1), (2, 1), (2, -1))  # axis and side


def box(length: float, width: float, height: float) -> dict[str, np.ndarray]:
    """Return a box of 24 vertices with normals and texture coordinates, and 12 triangles, counter-clockwise from outside."""
    half = np.array([length, width, height]) / 2
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    positions = []
    normals = []
    triangles = []
    for axis, side in FACES:
        first = len(positions) * 4
        face = np.zeros((4, 3))
        face[:, axis] = side
        face[:, (axis + 1) % 3] = corners[:, 0] * side
        face[:, (axis + 2) % 3] = corners[:, 1]
        positions.append(face * half)
        normals.append(np.repeat([side * np.eye(3)[axis]], 4, axis=0))
        triangles += [(first, first + 1, first + 2), (first, first + 2, first + 3)]
    return {
        "position": np.concatenate(positions).astype(np.float32),
        "normal": np.concatenate(normals).astype(np.float32),
        "uv": np.tile((corners + 1) / 2, (6, 1)).astype(np.float32),
        "triangle": np.array(triangles, np.uint16),
    }


def texture(seed: int, size: int = 16) -> bytes:
    """Return a PNG of coloured squares."""
    squares = np.random.default_rng(seed).integers(40, 220, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(squares.repeat(size // 4, 0).repeat(size // 4, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def gltf(mesh: dict[str, np.ndarray], image: bytes, image_uri: str | None = None) -> tuple[dict, bytes]:
    """Return a textured mesh as glTF 2.0: its JSON and its buffer, which holds the image unless that has a file of its own."""
    parts = [mesh["position"].tobytes(), mesh["normal"].tobytes(), mesh["uv"].tobytes(), mesh["triangle"].tobytes()]
    parts += [] if image_uri else [image]
    offsets = []
    data = b""
    for part in parts:
        offsets.append(len(data))
        data += part + b"\0" * (-len(part) % 4)
    views = [{"buffer": 0, "byteOffset": at, "byteLength": len(part)} for at, part in zip(offsets, parts)]
    low = mesh["position"].min(axis=0).tolist()
    high = mesh["position"].max(axis=0).tolist()
    count = len(mesh["position"])
    accessors = [
        {"bufferView": 0, "componentType": 5126, "count": count, "type": "VEC3", "min": low, "max": high},
        {"bufferView": 1, "componentType": 5126, "count": count, "type": "VEC3"},
        {"bufferView": 2, "componentType": 5126, "count": count, "type": "VEC2"},
        {"bufferView": 3, "componentType": 5123, "count": mesh["triangle"].size, "type": "SCALAR"},
    ]
    attributes = {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2}
    rough = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 0.8}
    tree = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 3, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": rough}],
        "textures": [{"source": 0}],
        "images": [{"uri": image_uri} if image_uri else {"bufferView": 4, "mimeType": "image/png"}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(data)}],
    }
    return tree, data


def glb(tree: dict, data: bytes) -> bytes:
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def obj(mesh: dict[str, np.ndarray], library: str = "") -> str:
    lines = [f"mtllib {library}", "usemtl paint"] if library else []
    for word, name in (("v", "position"), ("vt", "uv"), ("vn", "normal")):
        lines += [f"{word} {' '.join(f'{number:g}' for number in row)}" for row in mesh[name]]
    return "\n".join(lines + ["f " + " ".join(f"{i}/{i}/{i}" for i in row + 1) for row in mesh["triangle"]]) + "\n"


def ply(mesh: dict[str, np.ndarray]) -> bytes:
    colours = np.random.default_rng(3).integers(40, 220, (len(mesh["position"]), 3), dtype=np.uint8)
    head = [f"element vertex {len(colours)}", *(f"property float {axis}" for axis in "xyz")]
    head += [f"property uchar {name}" for name in ("red", "green", "blue")]
    head += [f"element face {len(mesh['triangle'])}", "property list uchar int vertex_indices"]
    rows = [place.tobytes() + colour.tobytes() for place, colour in zip(mesh["position"], colours)]
    rows += [b"\x03" + row.astype("<i4").tobytes() for row in mesh["triangle"]]
    return "\n".join(["ply", "format binary_little_endian 1.0", *head, "end_header", ""]).encode() + b"".join(rows)


def stl(mesh: dict[str, np.ndarray]) -> bytes:
    corners = mesh["position"][mesh["triangle"].astype(int)]
    rows = [np.zeros(3, np.float32).tobytes() + corner.tobytes() + b"\0\0" for corner in corners]
    return b"binary".ljust(80, b"\0") + struct.pack("<I", len(rows)) + b"".join(rows)


def make_good(folder: Path) -> list[str]:
    """Write assets that render, and return their ids."""
    (folder / "plants").mkdir(parents=True, exist_ok=True)
    (folder / "crate.glb").write_bytes(glb(*gltf(box(1, 0.8, 1.2), texture(0))))
    tree, data = gltf(box(0.6, 0.5, 1), texture(1), "leaf%20green.png")
    tree["buffers"][0]["uri"] = "leaf.bin"
    (folder / "plants/leaf.gltf").write_text(json.dumps(tree))
    (folder / "plants/leaf.bin").write_bytes(data)
    (folder / "plants/leaf green.png").write_bytes(texture(1))
    (folder / "shelf.obj").write_text(obj(box(1.5, 0.5, 0.7), "shelf.mtl"))
    (folder / "shelf.mtl").write_bytes(b"newmtl paint\r\nKd 1 1 1\r\nmap_Kd shelf wood.png\r\n")
    (folder / "shelf wood.png").write_bytes(texture(2))
    (folder / "vase.ply").write_bytes(ply(box(0.5, 0.6, 0.9)))
    (folder / "gear.stl").write_bytes(stl(box(0.9, 0.9, 0.4)))
    return ["crate", "gear", "plants/leaf", "shelf", "vase"]


def make_bad(folder: Path) -> dict[str, str]:
    """Write assets that are refused, and return {id: a part of the reason}."""
    (folder / "inside").mkdir(parents=True, exist_ok=True)
    (folder / "secret.png").write_bytes(texture(9))
    (folder / "inside/link.png").unlink(missing_ok=True)
    (folder / "inside/link.png").symlink_to("../secret.png")
    mesh = box(1, 1, 1)
    good = glb(*gltf(mesh, texture(0)))
    files = {
        "empty.glb": (b"", "an empty file"),
        "text.glb": (b"this is not a model\n" * 9, "not a .glb file"),
        "truncated.glb": (good[:-500], "cut off or damaged"),
        "headless.glb": (good[:15], "cut off within its header"),
        "old.glb": (good[:4] + b"\1\0\0\0" + good[8:], "glTF version 1"),
        "json.gltf": (b'{"asset": ', "its JSON cannot be read"),
        "deep.gltf": (b"[" * 200_000, "its JSON cannot be read"),
        "list.gltf": (b"[]", "another structure"),
        "text.obj": (b"this is not a model\n", "no text with vertices"),
        "outside.obj": (obj(mesh, "../other/paint.mtl").encode(), "'../other/paint.mtl', which is outside"),
        "lost.obj": (obj(mesh, "lost.mtl").encode(), "'lost.mtl', which is missing"),
        "gigabytes.stl": (b"\0" * 80 + b"\xff\xff\xff\x7f" + b"\0" * 500, "announces 2,147,483,647 triangles"),
        "text.stl": (b"solid cut\nfacet normal 0 0 1\nouter loop\n", "cut off: no endsolid"),
        "gigabytes.ply": (ply(mesh).replace(b"vertex 24", b"vertex 4000000000"), "announces at least 60,"),
        "negative.ply": (ply(mesh).replace(b"vertex 24", b"vertex -24"), "makes no sense"),
        "outside.ply": (
            ply(mesh).replace(b"end_header", b"comment TextureFile /etc/passwd\nend_header"),
            "not drawn: a .ply's texture",
        ),
        "faces.ply": (
            ply(mesh).replace(b"end_header", b"property uchar red\nend_header") + b"\0" * 12,
            "not drawn: a .ply's red of each face",
        ),
        "diffuse.ply": (ply(mesh).replace(b" red", b" diffuse_red"), "not drawn: a .ply's diffuse_red of each vertex"),
        "trailing.stl": (stl(mesh) + b"junk", "holds 4 bytes beyond the 12 triangles"),
    }
    files |= _bad_libraries(mesh, folder)
    for name, (change, reason) in _BAD_GLTF.items():
        tree, data = gltf(mesh, texture(0))
        change(tree)
        files[f"inside/{name}.glb"] = (glb(tree, data), reason)
    (folder / "inside/huge.png").write_bytes(_png_header(60_000, 60_000))
    (folder / "inside/wide.png").write_bytes(_png_header(20_000, 10))
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    return {name.rpartition(".")[0] + f" {name.rpartition('.')[2]}": reason for name, (_, reason) in files.items()}


def _bad_libraries(mesh: dict[str, np.ndarray], folder: Path) -> dict[str, tuple[bytes, str]]:
    """Return .obj files whose .mtl names a file that it may not, is missing, or lies in another folder."""
    outside = "newmtl paint\nmap_Kd ../secret.png\n"
    for name in ("unnamed", "indented", "continued"):
        (folder / f"inside/{name}.mtl").write_text(outside)
    (folder / "inside/second.mtl").write_text("newmtl other\n")
    (folder / "below/inside").mkdir(parents=True, exist_ok=True)
    (folder / "below/inside/paint.mtl").write_text("newmtl paint\nmap_Kd -mm paint.png\n")
    lines = {
        "inside/unnamed": ("", "'../secret.png', which is outside"),
        "inside/tabbed": ("\t mtllib indented.mtl", "'../secret.png', which is outside"),
        "inside/broken": ("mtllib\\\n continued.mtl", "'../secret.png', which is outside"),
        "inside/several": ("mtllib second.mtl unnamed.mtl", "'../secret.png', which is outside"),
        "inside/absent": ("mtllib second.mtl first.mtl", "'first.mtl', which is missing"),
        "below/away": ("mtllib inside/paint.mtl", "in another folder"),
    }
    return {f"{name}.obj": (f"{line}\n{obj(mesh)}".encode(), reason) for name, (line, reason) in lines.items()}


def _texture_at(uri: str):
    def change(tree: dict) -> None:
        tree["images"][0] = {"uri": uri}

    return change


def _with(**accessor):
    def change(tree: dict) -> None:
        tree["accessors"][0] |= accessor

    return change


def _nothing_behind(tree: dict) -> None:
    del tree["accessors"][0]["bufferView"]
    tree["accessors"][0]["count"] = 10**12


def _long_view(tree: dict) -> None:
    tree["bufferViews"][1]["byteLength"] = 1 << 40


def _long_buffer(tree: dict) -> None:
    tree["buffers"][0]["byteLength"] = 1 << 40


_BAD_GLTF = {
    "parent": (_texture_at("../secret.png"), "'../secret.png', which is outside"),
    "absolute": (_texture_at("/etc/passwd"), "'/etc/passwd', which is outside"),
    "escaped": (_texture_at("%2e%2e/secret.png"), "'../secret.png', which is outside"),
    "http": (_texture_at("http://localhost/a.png"), "which is outside"),
    "file": (_texture_at("file:///etc/passwd"), "which is outside"),
    "linked": (_texture_at("link.png"), "'link.png', which is outside"),
    "lost": (_texture_at("lost.png"), "'lost.png', which is missing"),
    "null": (_texture_at("a%00.png"), "which cannot be"),
    "huge": (_texture_at("huge.png"), "announces more than"),
    "wide": (_texture_at("wide.png"), "announces 20000 x 10 pixels"),
    "vertices": (_with(count=4_000_000_000), "announces 4,000,000,000 elements"),
    "count": (_with(count=-1), "count is -1"),
    "words": (_with(count="many"), "count is 'many'"),
    "sparse": (_with(sparse={"count": 10**9}), "changes 1,000,000,000 of 24"),
    "zeros": (_nothing_behind, "GiB that the file does not hold"),
    "view": (_long_view, "bufferView 1 reaches beyond its buffer"),
    "buffer": (_long_buffer, "buffer 0 announces 1,099,511,627,776 bytes"),
}


def _png_header(width: int, height: int) -> bytes:
    """Return a PNG that announces so many pixels and does not hold them."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return start + chunk(b"IDAT", zlib.compress(b"\0" * 100))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/helpers/make_assets.py FOLDER")
    print(*make_good(Path(sys.argv[1], "good")), sep="\n")
    print(*(f"{name}: {reason}" for name, reason in make_bad(Path(sys.argv[1], "bad")).items()), sep="\n")
