"""glTF 2.0 files (.glb, .gltf): what drawing one demands, and its triangles. Numpy only; an error in the file is a ValueError.

Sections named in comments are those of the glTF 2.0 specification.
"""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np

COMPONENTS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
MAX_ELEMENTS = 100_000_000  # of one accessor: one without data costs its file nothing and us the memory
TRIANGLES, STRIP, FAN = 4, 5, 6
# Material extensions that show only where this factor of theirs is not 0 (its default).
FACTORS = {
    "KHR_materials_anisotropy": "anisotropyStrength",
    "KHR_materials_clearcoat": "clearcoatFactor",
    "KHR_materials_diffuse_transmission": "diffuseTransmissionFactor",
    "KHR_materials_dispersion": "dispersion",
    "KHR_materials_iridescence": "iridescenceFactor",
    "KHR_materials_sheen": "sheenColorFactor",
    "KHR_materials_transmission": "transmissionFactor",
    "KHR_materials_volume": "thicknessFactor",
}
# Nothing of them is drawn: lights are ignored, animations at rest, the first variant shown.
UNSEEN = {"KHR_lights_punctual", "KHR_animation_pointer", "KHR_materials_variants", "KHR_xmp", "KHR_xmp_json_ld"}


def demands(tree: dict) -> set[str]:
    """What a renderer must be able to do to draw the file right: extensions by name, and features in words."""
    used = {*tree.get("extensionsUsed", []), *tree.get("extensionsRequired", [])}
    found = used - UNSEEN - FACTORS.keys()
    for primitive in (primitive for mesh in tree.get("meshes", []) for primitive in mesh["primitives"]):
        found |= primitive.get("extensions", {}).keys() - UNSEEN
        found |= {"skin"} if "JOINTS_0" in primitive["attributes"] else set()
        found |= {"morph targets"} if primitive.get("targets") else set()
        found |= {"vertex colours"} if "COLOR_0" in primitive["attributes"] else set()
        found |= {"points or lines"} if primitive.get("mode", TRIANGLES) not in (TRIANGLES, STRIP, FAN) else set()
        if "material" in primitive:
            found |= _material_demands(tree["materials"][primitive["material"]])
    return found


def _material_demands(material: dict) -> set[str]:
    extensions = material.get("extensions", {})
    shown = {name for name, values in extensions.items() if name not in FACTORS or np.any(values.get(FACTORS[name], 0))}
    sets = {info.get("texCoord", 0) for _, info in texture_infos(material)}
    far = {"more than two sets of texture coordinates"} if max(sets, default=0) > 1 else set()
    return (shown - UNSEEN) | far | {f"alpha {material.get('alphaMode', 'OPAQUE')}"}


def texture_infos(node: dict) -> Iterator[tuple[str, dict]]:
    """Every (name, textureInfo) in a material, those of its extensions too."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from [(name, value)] if name.endswith("Texture") else texture_infos(value)


class Gltf:
    """An open file: `tree` is its JSON."""

    def __init__(self, path: Path):
        self.folder, data = path.parent, path.read_bytes()
        self.binary, text = b"", data
        if data[:4] == b"glTF":
            text, self.binary = _chunks(data)
        try:
            self.tree = json.loads(text)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a glTF file: {error}") from None
        if not isinstance(self.tree, dict) or "asset" not in self.tree:
            raise ValueError("not a glTF file: no `asset` in its JSON")
        self._buffers = {}

    def image(self, index: int) -> bytes:
        image = self.tree["images"][index]
        return self._resource(image["uri"]) if "uri" in image else self._view(image["bufferView"])

    def accessor(self, index: int) -> np.ndarray:
        """N C; integers that stand for fractions are turned into them. Sparse ones are filled in (5.1.2)."""
        accessor = self.tree["accessors"][index]
        count, width, dtype = accessor["count"], WIDTHS[accessor["type"]], COMPONENTS[accessor["componentType"]]
        if not 0 <= count <= MAX_ELEMENTS:
            raise ValueError(f"accessor {index} announces {count} elements")
        values = np.zeros((count, width), dtype)
        if "bufferView" in accessor:
            values = self._elements(accessor, dtype, count, width)
        if "sparse" in accessor:
            sparse, values = accessor["sparse"], values.copy()
            places = self._elements(
                sparse["indices"], COMPONENTS[sparse["indices"]["componentType"]], sparse["count"], 1
            )
            values[places[:, 0]] = self._elements(sparse["values"], dtype, sparse["count"], width)
        if accessor.get("normalized"):
            values = np.maximum(values / np.float32(np.iinfo(dtype).max), -1)
        return values

    def _elements(self, place: dict, dtype, count: int, width: int) -> np.ndarray:
        """count width: from a buffer view, whose stride may leave gaps."""
        size = np.dtype(dtype).itemsize
        stride = self.tree["bufferViews"][place["bufferView"]].get("byteStride", size * width)
        data = self._view(place["bufferView"])
        if place.get("byteOffset", 0) + stride * max(count - 1, 0) + size * width * min(count, 1) > len(data):
            raise ValueError(f"buffer view {place['bufferView']} is shorter than its accessor")
        return np.ndarray((count, width), dtype, data, place.get("byteOffset", 0), (stride, size))

    def _view(self, index: int) -> bytes:
        view = self.tree["bufferViews"][index]
        start, number = view.get("byteOffset", 0), view["buffer"]
        if number not in self._buffers:
            buffer = self.tree["buffers"][number]
            self._buffers[number] = self._resource(buffer["uri"]) if "uri" in buffer else self.binary
        data = self._buffers[number][start : start + view["byteLength"]]
        if start < 0 or len(data) < view["byteLength"]:
            raise ValueError(f"truncated: buffer view {index} needs {view['byteLength']} bytes and has {len(data)}")
        return data

    def _resource(self, uri: str) -> bytes:
        if uri.startswith("data:"):
            return base64.b64decode(uri.partition(",")[2])
        return inside(self.folder, unquote(uri)).read_bytes()


def inside(folder: Path, name: str) -> Path:
    """An existing file that an asset names, in the asset's folder or below."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"'{name}' is outside the asset's folder")
    if not path.is_file():
        raise ValueError(f"'{name}' is missing")
    return path


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    """JSON and binary chunk of a .glb (4.4)."""
    if len(data) < 20:
        raise ValueError("truncated: no room for a header")
    _, version, length, json_length, kind = struct.unpack("<5I", data[:20])
    if version != 2 or kind != 0x4E4F534A:
        raise ValueError(f"a .glb of version {version}, not 2")
    if length > len(data):
        raise ValueError(f"truncated: {length} bytes announced, {len(data)} there")
    return data[20 : 20 + json_length], data[28 + json_length :]


def world_matrices(tree: dict) -> dict[int, np.ndarray]:
    """4 4 of each node in the shown scene, at rest: as the nodes stand, whatever the animations do."""
    nodes = tree.get("nodes", [])
    below = {child for node in nodes for child in node.get("children", [])}
    roots = [index for index in range(len(nodes)) if index not in below]
    if tree.get("scenes"):
        roots = tree["scenes"][tree.get("scene", 0)].get("nodes", [])
    matrices, waiting = {}, [(index, np.eye(4)) for index in roots]
    while waiting:
        index, above = waiting.pop()
        if index in matrices:
            raise ValueError(f"node {index} has two parents")
        matrices[index] = above @ _local_matrix(nodes[index])
        waiting += [(child, matrices[index]) for child in nodes[index].get("children", [])]
    return matrices


def _local_matrix(node: dict) -> np.ndarray:
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), float)
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn * node.get("scale", (1, 1, 1)), node.get("translation", (0, 0, 0))
    return matrix


def primitives(gltf: Gltf) -> Iterator[tuple[dict[str, np.ndarray], int | None]]:
    """Each primitive of the shown scene: its corners (T 3 C by name: POSITION, and NORMAL, TEXCOORD_0, ... where the file has
    them) in the scene's axes (y up), posed; and its material's number."""
    matrices = world_matrices(gltf.tree)
    for index, matrix in matrices.items():
        node = gltf.tree["nodes"][index]
        mesh = gltf.tree["meshes"][node["mesh"]] if "mesh" in node else {"primitives": []}
        weights = node.get("weights", mesh.get("weights", []))
        for primitive in mesh["primitives"]:
            vertices = {name: gltf.accessor(place) for name, place in primitive["attributes"].items()}
            for weight, target in zip(weights, primitive.get("targets", [])):
                for name in vertices.keys() & target.keys():
                    vertices[name] = vertices[name] + np.float32(weight) * gltf.accessor(target[name])
            pose = (
                _skin_matrices(gltf, node["skin"], vertices, matrices)
                if "skin" in node and "JOINTS_0" in vertices
                else matrix
            )
            _move(vertices, pose)
            faces = _faces(gltf, primitive, len(vertices["POSITION"]))
            corners = {name: values[faces] for name, values in vertices.items()}
            yield corners, primitive.get("material")


def _skin_matrices(gltf: Gltf, index: int, vertices: dict, matrices: dict) -> np.ndarray:
    """N 4 4: the joints as the nodes stand; the skinned node's own matrix does not count (3.7.3.3)."""
    skin = gltf.tree["skins"][index]
    joints = np.stack([matrices[joint] for joint in skin["joints"]])
    if "inverseBindMatrices" in skin:
        joints = joints @ gltf.accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
    matrix, total = 0, 0
    for number in range(sum(name.startswith("JOINTS_") for name in vertices)):
        for joint, weight in zip(vertices[f"JOINTS_{number}"].T, vertices[f"WEIGHTS_{number}"].T):
            matrix, total = matrix + weight[:, None, None] * joints[joint], total + weight[:, None, None]
    return matrix / np.maximum(total, 1e-9)


def _move(vertices: dict, matrix: np.ndarray) -> None:
    """By a 4 4, or an N 4 4; normals by its cofactors, which stand no inverse."""
    turn = matrix[..., :3, :3]
    vertices["POSITION"] = np.einsum("...ij,...j->...i", turn, vertices["POSITION"]) + matrix[..., :3, 3]
    if "NORMAL" in vertices:
        a, b, c = np.moveaxis(turn, -2, 0)
        cofactors = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=-2)
        vertices["NORMAL"] = np.einsum("...ij,...j->...i", cofactors, vertices["NORMAL"])


def _faces(gltf: Gltf, primitive: dict, num_vertices: int) -> np.ndarray:
    """T 3 (3.7.2.1)."""
    order, mode = np.arange(num_vertices), primitive.get("mode", TRIANGLES)
    if "indices" in primitive:
        order = gltf.accessor(primitive["indices"])[:, 0].astype(np.int64)
    if mode == TRIANGLES:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    if mode == STRIP:
        return np.stack([order[:-2], order[1:-1], order[2:]], axis=1)
    return np.stack([np.full(len(order[2:]), order[0]), order[1:-1], order[2:]], axis=1)
