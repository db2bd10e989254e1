"""A ray tracer for solids: boxes, ellipsoids and cylinders, lit by one lamp and a sky. Numpy only.

It draws the dummy dataset, and toys to pretrain on. The cameras are those of rendering/camera.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rendering.camera import FOV_DEG, RADIUS
from rendering.extent import centre_and_farthest
from rendering.solid_objects import OBJECTS
from utils.camera import camera_to_world

DISTANCE = 1.896  # orbit_distance() to the millimetre, as the committed views have it
OVERSAMPLE = 3  # rays per pixel side


@dataclass(frozen=True)
class Solid:
    """A part of an object, in the world."""

    kind: str  # box | ell | cyl
    centre: np.ndarray  # 3
    half: np.ndarray  # 3: half of its sides, or its radii
    colour: np.ndarray  # 3: linear
    rotation: np.ndarray  # 3 3: its own axes are the columns


@dataclass(frozen=True)
class Light:
    """A lamp far away, and a sky that is brighter above. By default as the dummy dataset has it."""

    to_lamp: np.ndarray = field(default_factory=lambda: np.array([0.55, -0.35, 0.76]))  # 3, of length 1, about
    lamp: float = 0.8
    sky: float = 0.35  # on what faces sideways
    sky_slope: float = 0.25  # by how much more on what faces up
    gloss: float = 0.12


def render_view(name: str, azimuth_deg: float, elevation_deg: float, size_px: int) -> np.ndarray:
    """Render an object of OBJECTS: size_px size_px 4 uint8, straight alpha."""
    return render_solids(fitted([_solid(*part) for part in OBJECTS[name]]), azimuth_deg, elevation_deg, size_px)


def render_solids(
    solids: Sequence[Solid], azimuth_deg: float, elevation_deg: float, size_px: int, light: Light = Light()
) -> np.ndarray:
    """Render what lies around the origin: size_px size_px 4 uint8, straight alpha."""
    origin, rays = _camera_rays(azimuth_deg, elevation_deg, size_px * OVERSAMPLE)
    depth = np.full(len(rays), np.inf)
    normal = np.zeros_like(rays)
    colour = np.zeros_like(rays)
    for solid in solids:
        to_centre = solid.centre - origin
        off_centre = to_centre @ to_centre - (rays @ to_centre) ** 2  # squared distance of each ray to the centre
        near = np.flatnonzero(off_centre <= solid.half @ solid.half)
        local_origin = (origin - solid.centre) @ solid.rotation / solid.half
        local_rays = rays[near] @ solid.rotation / solid.half
        hit_depth, hit_normal = _INTERSECT[solid.kind](local_origin, local_rays)
        nearer = hit_depth < depth[near]
        place = near[nearer]
        depth[place] = hit_depth[nearer]
        colour[place] = solid.colour
        normal[place] = (hit_normal / solid.half)[nearer] @ solid.rotation.T
    hit = np.isfinite(depth)
    linear = np.zeros((len(rays), 4))  # premultiplied
    linear[hit, :3] = _shade(normal[hit], rays[hit], colour[hit], light)
    linear[hit, 3] = 1
    return _to_straight_srgb(linear.reshape(size_px, OVERSAMPLE, size_px, OVERSAMPLE, 4).mean(axis=(1, 3)))


def _to_straight_srgb(linear: np.ndarray) -> np.ndarray:
    """Convert premultiplied linear colour, H W 4, to bytes."""
    alpha = linear[..., 3:]
    rgb = np.where(alpha > 0, linear[..., :3] / np.maximum(alpha, 1e-6), 0).clip(0, 1) ** (1 / 2.2)
    return (np.concatenate([rgb, alpha], axis=-1) * 255).round().astype(np.uint8)


def _solid(kind: str, centre: tuple, half: tuple, colour: tuple, turn: tuple[str, float] | None = None) -> Solid:
    """Read a part of an object of OBJECTS."""
    colour = np.array(colour) ** 2.2
    return Solid(kind, np.array(centre), np.array(half), colour, rotation(*turn) if turn else np.eye(3))


def fitted(solids: Sequence[Solid]) -> list[Solid]:
    """Bring the bounding box of all to the origin, and the farthest point to RADIUS."""
    points = np.concatenate([_surface_points(solid) for solid in solids])
    centre, farthest = centre_and_farthest(points)
    scale = RADIUS / farthest
    return [replace(solid, centre=(solid.centre - centre) * scale, half=solid.half * scale) for solid in solids]


def _surface_points(solid: Solid) -> np.ndarray:
    """Return points that are spread over a solid's surface, or the corners of a box (N 3)."""
    angles, heights = np.meshgrid(np.linspace(0, 2 * np.pi, 24, endpoint=False), np.linspace(-1, 1, 13))
    angle = angles.ravel()
    z = heights.ravel()
    ring = np.sqrt(1 - z**2) if solid.kind == "ell" else np.ones_like(z)
    points = np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)
    if solid.kind == "box":
        points = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    return points * solid.half @ solid.rotation.T + solid.centre


def rotation(axis: str, degrees: float) -> np.ndarray:
    """Return the 3 3 of a turn around x, y or z."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = cos
    matrix[i, j] = -sin
    matrix[j, i] = sin
    return matrix


def _camera_rays(azimuth_deg: float, elevation_deg: float, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where all rays start (3), and the direction of each pixel's (size_px * size_px 3)."""
    right, up, back = camera_to_world(azimuth_deg, elevation_deg, DISTANCE)[:3, :3].T
    axis = (np.arange(size_px) + 0.5) / size_px * 2 - 1
    x, y = (grid.ravel()[:, None] * np.tan(np.radians(FOV_DEG / 2)) for grid in np.meshgrid(axis, -axis))
    rays = x * right + y * up - back
    return back * DISTANCE, rays / np.linalg.norm(rays, axis=1, keepdims=True)


# Where rays (N 3) from one origin (3) meet a unit shape at the origin: N depths (inf where they miss it), N 3 outward normals.


def _ellipsoid(origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # The depth solves a t^2 + 2 b t + c = 0.
    a = (rays**2).sum(1)
    b = (rays * origin).sum(1)
    c = (origin**2).sum() - 1
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    depth = np.where(b * b > a * c, (-b - root) / a, np.inf)
    return depth, origin + np.where(np.isfinite(depth), depth, 0)[:, None] * rays


def _box(origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(divide="ignore"):
        near = (-origin - np.sign(rays)) / rays
        far = (-origin + np.sign(rays)) / rays
    axis = near.argmax(axis=1)
    depth = near.max(axis=1)
    normal = -np.sign(rays) * (np.arange(3) == axis[:, None])
    return np.where(depth < far.min(axis=1), depth, np.inf), normal


def _cylinder(origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A ray is inside between the later entry and the earlier exit of the endless cylinder and the slab between its caps."""
    a = (rays[:, :2] ** 2).sum(1)
    b = (rays[:, :2] * origin[:2]).sum(1)
    c = (origin[:2] ** 2).sum() - 1
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    side_near = (-b - root) / a
    side_far = (-b + root) / a
    cap_near = (-origin[2] - np.sign(rays[:, 2])) / rays[:, 2]
    cap_far = (-origin[2] + np.sign(rays[:, 2])) / rays[:, 2]
    depth = np.maximum(side_near, cap_near)
    depth = np.where((b * b > a * c) & (depth < np.minimum(side_far, cap_far)), depth, np.inf)
    point = origin + np.where(np.isfinite(depth), depth, 0)[:, None] * rays
    cap = -np.sign(rays[:, 2:]) * np.array([0, 0, 1])
    return depth, np.where((cap_near > side_near)[:, None], cap, point * np.array([1, 1, 0]))


_INTERSECT = {"ell": _ellipsoid, "box": _box, "cyl": _cylinder}


def _shade(normal: np.ndarray, rays: np.ndarray, colour: np.ndarray, light: Light) -> np.ndarray:
    """Return the light (N 3) that matt surfaces with a little gloss send against the rays."""
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    lamp = np.maximum(normal @ light.to_lamp, 0)[:, None]
    sky = light.sky + light.sky_slope * normal[:, 2:]
    half = light.to_lamp - rays
    gloss = np.maximum((normal * half).sum(1) / np.linalg.norm(half, axis=1), 0)[:, None] ** 40
    return colour * (light.lamp * lamp + sky) + light.gloss * gloss
