"""Baking: the light that every part of a mesh receives past the rest of it, bounces included, once for all views."""

import numpy as np

from rendering.quick.environment import Environment
from rendering.quick.material import dot, unit
from rendering.quick.mesh import Attributes, Mesh

RAY_OFFSET = 1e-4  # a ray starts this far above its surface
NUM_RAYS = 4_000_000  # for one mesh, about
NUM_BOUNCES = 2
CHUNK = 4096  # triangles whose rays are traced at once


def bake_lighting(mesh: Mesh, scene, environment: Environment) -> np.ndarray:
    """Fill in the mesh's visibility, and return T 2 3: the radiance that leaves each triangle's front and back.

    `scene` is Embree's, of the mesh's triangles. Every surface counts as matt here.
    """
    centres = mesh.corners.map(lambda values: values.mean(axis=1))
    surface = mesh.surface(centres, mesh.material_of)
    albedo = (surface.alpha * (surface.diffuse + surface.f0))[:, None]
    emission = (surface.alpha * surface.emission)[:, None]
    directions, radiance, solid_angle = environment.importance_samples(int(np.clip(NUM_RAYS / mesh.size, 16, 256)))
    face_normal = unit(np.cross(*np.diff(mesh.corners.position, axis=1).transpose(1, 0, 2)))
    blocker, cosine = _first_hits(scene, centres, face_normal, directions)

    sides = np.stack([np.maximum(cosine, 0), np.maximum(-cosine, 0)], axis=1) * solid_angle  # T 2 K
    unblocked = sides @ radiance
    transmitted = np.where(blocker < 0, 1, 1 - surface.alpha[blocker, 0])
    direct = (sides * transmitted[:, None]) @ radiance

    receiver, ray = np.nonzero(blocker >= 0)
    source = blocker[receiver, ray]
    weight = (np.abs(cosine) * solid_angle)[receiver, ray]
    source = 2 * source + (dot(directions[ray], face_normal[source])[:, 0] > 0)  # the side that was hit
    target = 2 * receiver + (cosine[receiver, ray] < 0)
    irradiance = direct
    for _ in range(NUM_BOUNCES):
        leaving = (emission + albedo * irradiance / np.pi).reshape(-1, 3)
        indirect = [np.bincount(target, weight * channel[source], 2 * mesh.size) for channel in leaving.T]
        irradiance = direct + np.stack(indirect, axis=1).reshape(-1, 2, 3)
    visibility = irradiance / np.maximum(unblocked, 1e-3 * unblocked.max() + 1e-9)
    mesh.corners.visibility = _smoothed(mesh.corners, visibility.reshape(-1, 6))
    return np.float32(emission + albedo * irradiance / np.pi)


def _first_hits(
    scene, centres: Attributes, face_normal: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Trace a ray from every triangle in every direction.

    Returns T K, the first triangle that each ray meets (-1: none), and T K, the cosine to the normal, which is negative
    behind the face.
    """
    blocker = np.empty((len(face_normal), len(directions)), np.int32)
    cosine = np.empty(blocker.shape, np.float32)
    for chunk in (slice(start, start + CHUNK) for start in range(0, len(face_normal), CHUNK)):
        side = np.sign(face_normal[chunk] @ directions.T)
        cosine[chunk] = side * np.maximum(side * (unit(centres.normal[chunk]) @ directions.T), 0)
        origins = centres.position[chunk, None] + RAY_OFFSET * side[..., None] * face_normal[chunk, None]
        rays = np.broadcast_to(directions, origins.shape).reshape(-1, 3)
        hits = scene.run(np.float32(origins.reshape(-1, 3)), rays, query="INTERSECT", output=1)
        blocker[chunk] = hits["primID"].reshape(side.shape)
    return blocker, cosine


def _smoothed(corners: Attributes, values: np.ndarray) -> np.ndarray:
    """Bring T 6 of triangles to their corners, T 3 6: the mean over all corners that share a position and a normal."""
    place = np.concatenate([corners.position, corners.normal], axis=-1)
    rounded = np.round(place.reshape(-1, 6) * ([1e5] * 3 + [100] * 3)).astype(np.int64)
    hashes = rounded @ 1_000_003 ** np.arange(6)
    _, vertex, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    means = [(np.bincount(vertex, np.repeat(channel, 3)) / counts)[vertex] for channel in values.T]
    return np.float32(np.stack(means, axis=1).reshape(-1, 3, 6))
