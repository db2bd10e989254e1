"""glTF 2.0 files (.glb, .gltf): what drawing one demands, and its triangles. Numbers in comments are the specification's sections.

The bytes are trusted to hold what they announce, since safety/ has looked. What still makes no sense is a Failure, "refused".
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rendering.failure import Failure
from rendering.safety.companions import resolve_uri

COMPONENTS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
TRIANGLES, STRIP, FAN = 4, 5, 6
# Material extensions that show only where this factor of theirs is not 0, its default.
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
# Nothing that these describe is drawn: lights are ignored, animations stand at rest, the file's own materials are shown.
UNSEEN = {"KHR_lights_punctual", "KHR_animation_pointer", "KHR_materials_variants", "KHR_xmp", "KHR_xmp_json_ld"}


# The extensions of glTF's materials that Blender's importer reads. Of others it would draw the fallback, and say nothing.
BLENDER_MATERIALS = {
    f"KHR_materials_{name}"
    for name in (
        "anisotropy", "clearcoat", "emissive_strength", "ior", "pbrSpecularGlossiness", "sheen", "specular", "transmission",
        "unlit", "volume",
    )
}  # fmt: skip
# What Blender 4.5 draws of what a simpler renderer refuses.
DRAWN_BY_BLENDER = BLENDER_MATERIALS | {"KHR_draco_mesh_compression"}
# What reading a wrong file can raise: its values, their types, names that point nowhere, its images, other files.
DAMAGE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, SyntaxError, OSError)


def refused(reason: str) -> Failure:
    return Failure("refused", reason)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn an error of what only reads the file, so that the file is to blame, into a Failure that names the part."""
    try:
        yield
    except DAMAGE as error:
        raise refused(f"{what} is damaged or incomplete") from error


def demands(tree: dict) -> set[str]:
    """Return what a renderer must be able to do to draw the file right: extensions by name, and features in words."""
    found = {*tree.get("extensionsUsed", []), *tree.get("extensionsRequired", [])} - FACTORS.keys()
    for kind in ("nodes", "meshes", "textures"):
        found.update(*(thing.get("extensions", ()) for thing in tree.get(kind, [])))
    for primitive in (primitive for mesh in tree.get("meshes", []) for primitive in mesh["primitives"]):
        features = {
            "skin": "JOINTS_0" in primitive["attributes"],
            "morph targets": bool(primitive.get("targets")),
            "vertex colours": "COLOR_0" in primitive["attributes"],
            "points or lines": primitive.get("mode", TRIANGLES) not in (TRIANGLES, STRIP, FAN),
        }
        found |= {name for name, there in features.items() if there} | primitive.get("extensions", {}).keys()
        if "material" in primitive:
            found |= _material_demands(tree["materials"][primitive["material"]])
    return found - UNSEEN


def _material_demands(material: dict) -> set[str]:
    extensions = material.get("extensions", {})
    shown = {name for name, values in extensions.items() if name not in FACTORS or np.any(values.get(FACTORS[name], 0))}
    sets = [coordinate_set(info) for _, info in texture_infos(material)]
    further = {"more than two sets of texture coordinates"} if max(sets, default=0) > 1 else set()
    return shown | further | {f"alpha {material.get('alphaMode', 'OPAQUE')}"}


def texture_infos(node: dict) -> Iterator[tuple[str, dict]]:
    """Yield every (name, textureInfo) of a material and of its extensions."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from [(name, value)] if name.endswith("Texture") else texture_infos(value)


def texture_transform(info: dict) -> dict:
    return info.get("extensions", {}).get("KHR_texture_transform", {})


def coordinate_set(info: dict) -> int:
    return texture_transform(info).get("texCoord", info.get("texCoord", 0))


class Gltf:
    """An open file. `tree` is its JSON; `folder` is where the files are that it names."""

    def __init__(self, data: bytes, folder: Path):
        self.folder = folder
        self.binary = b""
        self._buffers: dict[int, bytes] = {}
        text = data
        if data[:4] == b"glTF":  # 4.4
            length = int.from_bytes(data[12:16], "little")
            text, self.binary = data[20 : 20 + length], data[28 + length :]
        with reading("its JSON"):
            self.tree = json.loads(text)

    def image(self, index: int) -> bytes:
        image = self.tree["images"][index]
        return self._resource(image["uri"]) if "uri" in image else self._view(image["bufferView"])

    def accessor(self, index: int) -> np.ndarray:
        """Return N C. Normalized integers become fractions, sparse values are filled in (3.6.2)."""
        accessor = self.tree["accessors"][index]
        count, width, dtype = accessor["count"], WIDTHS[accessor["type"]], COMPONENTS[accessor["componentType"]]
        if "bufferView" in accessor:
            values = self._elements(accessor, dtype, count, width)
        else:
            values = np.zeros((count, width), dtype)
        if "sparse" in accessor:
            count, indices, values = accessor["sparse"]["count"], accessor["sparse"]["indices"], values.copy()
            places = self._elements(indices, COMPONENTS[indices["componentType"]], count, 1)[:, 0]
            values[places] = self._elements(accessor["sparse"]["values"], dtype, count, width)
        if accessor.get("normalized"):
            values = np.maximum(values / np.float32(np.iinfo(dtype).max), -1)
        return values

    def _elements(self, place: dict, dtype, count: int, width: int) -> np.ndarray:
        """Return count x width elements of a buffer view, whose stride may leave gaps."""
        size = np.dtype(dtype).itemsize
        stride = self.tree["bufferViews"][place["bufferView"]].get("byteStride", size * width)
        data, offset = self._view(place["bufferView"]), place.get("byteOffset", 0)
        return np.ndarray((count, width), dtype, data, offset, (stride, size))

    def _view(self, index: int) -> bytes:
        view = self.tree["bufferViews"][index]
        start = view.get("byteOffset", 0)
        return self._buffer(view["buffer"])[start : start + view["byteLength"]]

    def _buffer(self, index: int) -> bytes:
        """Return a buffer, which is read once: a file may have thousands of views of it."""
        if index not in self._buffers:
            buffer = self.tree["buffers"][index]
            self._buffers[index] = self._resource(buffer["uri"]) if "uri" in buffer else self.binary
        return self._buffers[index]

    def _resource(self, uri: str) -> bytes:
        found = resolve_uri(self.folder, uri)
        return found if isinstance(found, bytes) else found.read_bytes()


def world_matrices(tree: dict) -> dict[int, np.ndarray]:
    """Return the 4 4 of each node in the shown scene, at rest: as the nodes stand, whatever the animations do."""
    nodes = tree.get("nodes", [])
    below = {child for node in nodes for child in node.get("children", [])}
    roots = [index for index in range(len(nodes)) if index not in below]
    if tree.get("scenes"):
        roots = tree["scenes"][tree.get("scene", 0)].get("nodes", [])
    matrices, waiting = {}, [(index, np.eye(4)) for index in roots]
    while waiting:
        index, above = waiting.pop()
        if index in matrices:
            raise refused(f"node {index} stands in two places")
        matrices[index] = above @ _local_matrix(nodes[index])
        waiting += [(child, matrices[index]) for child in nodes[index].get("children", [])]
    return matrices


def _local_matrix(node: dict) -> np.ndarray:
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), float)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(4)
    matrix[:3, :3] += 2 * (w * cross + cross @ cross)  # of a unit quaternion
    matrix[:3, :3] *= node.get("scale", (1, 1, 1))
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


def primitives(gltf: Gltf) -> Iterator[tuple[dict[str, np.ndarray], int | None]]:
    """Yield each primitive of the shown scene: its corners, and its material's number.

    The corners are T 3 C by attribute name (POSITION, and NORMAL, TEXCOORD_0, ... where the file has them), posed, in the scene's
    axes (y up).
    """
    with reading("the tree of its nodes"):
        matrices = world_matrices(gltf.tree)
        drawn = {index: gltf.tree["nodes"][index] for index in matrices if "mesh" in gltf.tree["nodes"][index]}
    for index, node in drawn.items():
        with reading(f"the mesh of node {index}"):
            mesh = gltf.tree["meshes"][node["mesh"]]
            parts = [_corners(gltf, part, mesh, node, index, matrices) for part in mesh["primitives"]]
        yield from parts


def _corners(
    gltf: Gltf, primitive: dict, mesh: dict, node: dict, index: int, matrices: dict
) -> tuple[dict, int | None]:
    vertices = {name: gltf.accessor(place) for name, place in primitive["attributes"].items()}
    for weight, target in zip(node.get("weights", mesh.get("weights", [])), primitive.get("targets", [])):
        for name in vertices.keys() & target.keys():
            vertices[name] = vertices[name] + np.float32(weight) * gltf.accessor(target[name])
    skinned = "skin" in node and "JOINTS_0" in vertices
    mirrored = _move(vertices, _skin_matrices(gltf, node["skin"], vertices, matrices) if skinned else matrices[index])
    faces = _faces(gltf, primitive, len(vertices["POSITION"]))
    faces = np.where(mirrored[faces[:, :1]], faces[:, ::-1], faces)
    return {name: values[faces] for name, values in vertices.items()}, primitive.get("material")


def _skin_matrices(gltf: Gltf, index: int, vertices: dict, matrices: dict) -> np.ndarray:
    """Return N 4 4, from the joints as the nodes stand. The skinned node's own matrix does not count (3.7.3.3)."""
    skin = gltf.tree["skins"][index]
    joints = np.stack([matrices[joint] for joint in skin["joints"]])
    if "inverseBindMatrices" in skin:
        joints = joints @ gltf.accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
    numbers = [name.removeprefix("JOINTS_") for name in vertices if name.startswith("JOINTS_")]
    weights = np.concatenate([vertices[f"WEIGHTS_{number}"] for number in numbers], axis=1)
    chosen = np.concatenate([vertices[f"JOINTS_{number}"] for number in numbers], axis=1)
    summed = sum(weight[:, None, None] * joints[joint] for weight, joint in zip(weights.T, chosen.T))
    return summed / np.maximum(weights.sum(axis=1), 1e-9)[:, None, None]


def _move(vertices: dict, matrix: np.ndarray) -> np.ndarray:
    """Move vertices by a 4 4, or an N 4 4. Normals are moved by its cofactors, for it may have no inverse.

    Returns N: whether the matrix makes a mirror image, whose fronts go the other way around.
    """
    turn = matrix[..., :3, :3]
    mirrored = np.linalg.det(turn) < 0
    vertices["POSITION"] = np.einsum("...ij,...j->...i", turn, vertices["POSITION"]) + matrix[..., :3, 3]
    if "NORMAL" in vertices:
        a, b, c = np.moveaxis(turn, -2, 0)
        cofactors = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=-2)
        cofactors = np.where(mirrored[..., None, None], -cofactors, cofactors)
        vertices["NORMAL"] = np.einsum("...ij,...j->...i", cofactors, vertices["NORMAL"])
    return np.broadcast_to(mirrored, len(vertices["POSITION"]))


def _faces(gltf: Gltf, primitive: dict, num_vertices: int) -> np.ndarray:
    """Return the vertices of each triangle, T 3 (3.7.2.1)."""
    order, mode = np.arange(num_vertices), primitive.get("mode", TRIANGLES)
    if "indices" in primitive:
        order = gltf.accessor(primitive["indices"])[:, 0].astype(np.int64)
    if mode == TRIANGLES:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    if mode == STRIP:
        return np.stack([order[:-2], order[1:-1], order[2:]], axis=1)
    return np.stack([np.full(len(order[2:]), order[0]), order[1:-1], order[2:]], axis=1)
