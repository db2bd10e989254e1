"""The triangles of a glTF file's scene, posed. Numbers in comments are the specification's sections."""

from collections.abc import Iterator

import numpy as np

from rendering.gltf import Gltf, reading, refused
from rendering.gltf_demands import STRIP, TRIANGLES
from rendering.quick import draco


def world_matrices(tree: dict) -> dict[int, np.ndarray]:
    """Return the 4 4 of each node in the shown scene, at rest: as the nodes stand, whatever the animations do."""
    nodes = tree.get("nodes", [])
    below = {child for node in nodes for child in node.get("children", [])}
    roots = [index for index in range(len(nodes)) if index not in below]
    if tree.get("scenes"):
        roots = tree["scenes"][tree.get("scene", 0)].get("nodes", [])
    matrices: dict[int, np.ndarray] = {}
    waiting = [(index, np.eye(4)) for index in roots]
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
    vertices: dict[str, np.ndarray] = {}
    faces = None
    if draco.EXTENSION in primitive.get("extensions", {}):
        vertices, faces = draco.decode(gltf, primitive)
    vertices |= {name: gltf.accessor(at) for name, at in primitive["attributes"].items() if name not in vertices}
    for weight, target in zip(node.get("weights", mesh.get("weights", [])), primitive.get("targets", [])):
        for name in vertices.keys() & target.keys():
            vertices[name] = vertices[name] + np.float32(weight) * gltf.accessor(target[name])
    skinned = "skin" in node and "JOINTS_0" in vertices
    mirrored = _move(vertices, _skin_matrices(gltf, node["skin"], vertices, matrices) if skinned else matrices[index])
    if faces is None:
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
    order = np.arange(num_vertices)
    mode = primitive.get("mode", TRIANGLES)
    if "indices" in primitive:
        order = gltf.accessor(primitive["indices"])[:, 0].astype(np.int64)
    if mode == TRIANGLES:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    if mode == STRIP:
        return np.stack([order[:-2], order[1:-1], order[2:]], axis=1)
    return np.stack([np.full(len(order[2:]), order[0]), order[1:-1], order[2:]], axis=1)
