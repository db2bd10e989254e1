"""Faces that lie on each other, in Blender's scene: some files have every face twice, so that both sides are drawn.

To a path tracer such faces stand in each other's shadow, and are black.
"""

import bmesh
import bpy
import numpy as np

from rendering.coincident import corner_hashes, first_with_same_corners


def drop_doubles(drawn: list[tuple]) -> bool:
    """Keep the first of the faces that have the same corners in the world.

    `drawn`: (object, evaluated mesh, N 3: its vertices in the world). Returns False, with nothing done, if such faces have
    different materials.
    """
    low = np.min([points.min(axis=0) for _, _, points in drawn], axis=0)
    extent = np.max([(points - low).max() for _, _, points in drawn])
    keys = []
    paints = []
    places = [0]
    for thing, mesh, points in drawn:
        keys.append(_face_keys(mesh, corner_hashes(points - low, extent)))
        paints.append(_paints(thing, mesh))
        places.append(places[-1] + len(keys[-1]))
    keys = np.concatenate(keys)
    paints = np.concatenate(paints)
    first = first_with_same_corners(keys)
    double = first != np.arange(len(keys))
    if (paints[first] != paints).any():
        return False
    extra = [double[start:end] for start, end in zip(places, places[1:])]
    for (thing, _, _), faces in zip(drawn, extra):
        if faces.any():
            _delete(thing, faces)
    return True


def _face_keys(mesh, hashes: np.ndarray) -> np.ndarray:
    """Return F uint64: the sum of the hashes of each face's corners; 0 if two neighbours of them are the same."""
    starts = _read(mesh.polygons, "loop_start", np.int32)
    vertices = _read(mesh.loops, "vertex_index", np.int32)
    hashes = hashes[vertices]
    following = np.roll(hashes, -1)
    following[np.append(starts[1:], len(hashes)) - 1] = hashes[starts]
    pinched = np.logical_or.reduceat(hashes == following, starts)
    return np.where(pinched, np.uint64(0), np.add.reduceat(hashes, starts))


def _paints(thing, mesh) -> np.ndarray:
    """Return F: the number of each face's material in the file; -1 for none."""
    materials = [slot.material for slot in thing.material_slots]
    slots = [bpy.data.materials.find(material.name) if material else -1 for material in materials] or [-1]
    return np.array(slots)[np.minimum(_read(mesh.polygons, "material_index", np.int32), len(slots) - 1)]


def _delete(thing, faces: np.ndarray) -> None:
    """Delete faces and keep the corners' normals, which Blender has relative to the faces around, which change."""
    if thing.data.users > 1:
        thing.data = thing.data.copy()
    mesh = thing.data
    kept = np.repeat(~faces, _read(mesh.polygons, "loop_total", np.int32))
    normals = _read(mesh.corner_normals, "vector", np.float32, 3)[kept] if mesh.has_custom_normals else None
    editable = bmesh.new()
    editable.from_mesh(mesh)
    editable.faces.ensure_lookup_table()
    bmesh.ops.delete(editable, geom=[editable.faces[index] for index in np.nonzero(faces)[0]], context="FACES_ONLY")
    editable.to_mesh(mesh)
    editable.free()
    if normals is not None and len(normals):
        mesh.normals_split_custom_set(normals)


def _read(items, name: str, dtype, width: int = 1) -> np.ndarray:
    values = np.empty(len(items) * width, dtype)
    items.foreach_get(name, values)
    return values.reshape(-1, width) if width > 1 else values
