"""A small dataset of solid objects, ray traced in numpy: 20 objects of boxes, ellipsoids and cylinders, lit by one lamp and a sky.

Its cameras are those of rendering/camera.py.
"""

import numpy as np

from rendering.camera import FOV_DEG, RADIUS, camera_to_world

DISTANCE = 1.896  # orbit_distance() to the millimetre, as the committed views have it
TO_LAMP = np.array([0.55, -0.35, 0.76])
OVERSAMPLE = 3  # rays per pixel side

RED, ORANGE, YELLOW, GREEN, TEAL = (
    (0.85, 0.15, 0.12),
    (0.95, 0.5, 0.1),
    (0.95, 0.8, 0.2),
    (0.2, 0.6, 0.25),
    (0.1, 0.6, 0.6),
)
BLUE, VIOLET, PINK, BROWN, DARK = (
    (0.15, 0.35, 0.85),
    (0.5, 0.25, 0.7),
    (0.95, 0.55, 0.65),
    (0.5, 0.3, 0.15),
    (0.16, 0.17, 0.2),
)
GRAY, WHITE, CREAM, SKY, LIME = (
    (0.55, 0.56, 0.6),
    (0.93, 0.93, 0.93),
    (0.93, 0.85, 0.68),
    (0.5, 0.75, 0.95),
    (0.6, 0.85, 0.25),
)

# A part: kind, centre, half sizes (x is the front, z is up), colour, then optionally (axis, degrees) of its rotation.
# A cylinder stands along its own z.
OBJECTS = {
    "car": [
        ("box", (0, 0, 3), (9, 4, 2), RED), ("box", (-1, 0, 6.5), (4.5, 3.5, 2), SKY),
        ("box", (9, 0, 2), (0.6, 3, 0.7), GRAY),
        *[("cyl", (x, y, 1.5), (2, 2, 0.8), DARK, ("x", 90)) for x in (-5, 5.5) for y in (-4, 4)],
        ("ell", (9, -2.5, 3.6), (0.6, 0.9, 0.7), YELLOW), ("ell", (9, 2.5, 3.6), (0.6, 0.9, 0.7), YELLOW),
    ],
    "chair": [
        ("box", (0, 0, 5), (4, 4, 0.7), BROWN), ("box", (-3.5, 0, 10), (0.6, 4, 4.5), ORANGE),
        *[("cyl", (x, y, 2.3), (0.6, 0.6, 2.4), DARK) for x in (-3.2, 3.2) for y in (-3.2, 3.2)],
        ("box", (0.5, 3.6, 8), (3, 0.5, 0.4), BROWN),
    ],
    "mug": [
        ("cyl", (0, 0, 5), (4, 4, 5), TEAL), ("cyl", (0, 0, 10), (3.4, 3.4, 0.3), BROWN),
        ("box", (0, 5.5, 7.5), (0.8, 1.8, 0.7), TEAL), ("box", (0, 5.5, 2.8), (0.8, 1.8, 0.7), TEAL),
        ("box", (0, 7, 5.1), (0.8, 0.7, 3), TEAL), ("box", (3.9, 0, 5), (0.3, 1.5, 1.5), YELLOW),
    ],
    "snowman": [
        ("ell", (0, 0, 3.5), (4, 4, 3.6), WHITE), ("ell", (0, 0, 8.7), (2.9, 2.9, 2.7), WHITE),
        ("ell", (0, 0, 12.7), (2, 2, 2), WHITE), ("cyl", (0, 0, 15.6), (1.6, 1.6, 1.5), DARK),
        ("cyl", (0, 0, 14.2), (2.6, 2.6, 0.3), DARK), ("ell", (2.4, 0, 12.6), (1.5, 0.4, 0.4), ORANGE),
        ("box", (0, 4, 9.5), (0.3, 2.6, 0.3), BROWN, ("x", 25)), ("ell", (2.7, 0, 9), (0.5, 0.5, 0.5), RED),
        ("ell", (1.7, 0.8, 13.3), (0.35, 0.35, 0.35), DARK), ("ell", (1.7, -0.8, 13.3), (0.35, 0.35, 0.35), DARK),
    ],
    "house": [
        ("box", (0, 0, 4), (6, 5, 4), CREAM), ("box", (0, 2.9, 9), (6.6, 4.3, 0.5), RED, ("x", -40)),
        ("box", (0, -2.9, 9), (6.6, 4.3, 0.5), RED, ("x", 40)), ("box", (0, 0, 8.5), (5.9, 2.4, 2), CREAM),
        ("box", (-3, 2.5, 11), (0.9, 0.9, 2.5), GRAY), ("box", (6, 0, 2.5), (0.2, 1.2, 2.5), BROWN),
        ("box", (6, 3.2, 4.5), (0.2, 0.9, 1), SKY), ("box", (0, -5, 4.5), (2.5, 0.2, 1.2), SKY),
    ],
    "plane": [
        ("ell", (0, 0, 4), (10, 1.7, 1.8), WHITE), ("box", (1, 0, 4), (1.8, 10, 0.35), BLUE),
        ("box", (-8, 0, 4.6), (1.2, 3.6, 0.3), BLUE), ("box", (-8.3, 0, 6.5), (1.3, 0.3, 2.2), RED),
        ("cyl", (3, 4.5, 3.2), (0.8, 0.8, 1.5), DARK, ("y", 90)),
        ("cyl", (3, -4.5, 3.2), (0.8, 0.8, 1.5), DARK, ("y", 90)), ("ell", (6, 0, 5.1), (1.6, 1, 0.9), SKY),
    ],
    "duck": [
        ("ell", (0, 0, 4), (6, 4, 3.6), YELLOW), ("ell", (4.2, 0, 9), (2.6, 2.6, 2.6), YELLOW),
        ("ell", (7, 0, 8.6), (1.7, 1.3, 0.6), ORANGE), ("ell", (5.8, 1.6, 9.8), (0.6, 0.6, 0.6), DARK),
        ("ell", (5.8, -1.6, 9.8), (0.6, 0.6, 0.6), DARK), ("ell", (-1, 3.7, 4.6), (3.4, 0.8, 2), ORANGE),
        ("ell", (-6, 0, 6), (1.8, 1.3, 1.1), CREAM),
    ],
    "lamp": [
        ("cyl", (0, 0, 0.5), (3.6, 3.6, 0.6), DARK), ("cyl", (-0.8, 0, 5), (0.4, 0.4, 5), GRAY, ("y", -10)),
        ("cyl", (1, 0, 11.5), (0.35, 0.35, 3.6), GRAY, ("y", 55)),
        ("cyl", (4, 0, 12.5), (2.4, 2.4, 1.6), GREEN, ("y", -35)), ("ell", (4.7, 0, 11.5), (1.6, 1.6, 1.2), YELLOW),
    ],
    "robot": [
        ("box", (0, 0, 6.5), (2.4, 3.4, 3.2), GRAY), ("box", (0, 0, 11.6), (2, 2.2, 1.8), TEAL),
        ("ell", (2, 0.9, 12), (0.5, 0.55, 0.55), RED), ("ell", (2, -0.9, 12), (0.5, 0.55, 0.55), RED),
        ("cyl", (0, 1.6, 1.7), (1, 1, 1.8), DARK), ("cyl", (0, -1.6, 1.7), (1, 1, 1.8), DARK),
        ("box", (2.6, 4.3, 8.2), (3, 0.8, 0.8), ORANGE), ("box", (0, -4.3, 6.2), (0.8, 0.8, 3), BLUE),
        ("cyl", (0, 1, 14.6), (0.2, 0.2, 1.4), DARK), ("ell", (0, 1, 16), (0.6, 0.6, 0.6), RED),
        ("box", (2.5, 0, 6.8), (0.2, 1.6, 1.2), YELLOW),
    ],
    "tree": [
        ("cyl", (0, 0, 3), (1.2, 1.2, 3.2), BROWN), ("ell", (0, 0, 8.5), (4.6, 4.4, 3.6), GREEN),
        ("ell", (1.8, 2.8, 10.8), (2.8, 2.8, 2.6), LIME), ("ell", (-2.2, -1.8, 11.4), (3, 3, 2.6), GREEN),
        ("ell", (4, -1.2, 8.4), (0.8, 0.8, 0.8), RED), ("ell", (2.4, 4, 8), (0.8, 0.8, 0.8), RED),
        ("ell", (-3.2, 3, 8.6), (0.8, 0.8, 0.8), RED), ("box", (0, -2, 0.5), (3.6, 3, 0.4), LIME),
    ],
    "camera": [
        ("box", (0, 0, 4), (2, 6, 4), DARK), ("cyl", (3.2, 0.8, 4), (2.9, 2.9, 1.8), GRAY, ("y", 90)),
        ("cyl", (5, 0.8, 4), (2.1, 2.1, 0.3), SKY, ("y", 90)), ("box", (0, 1, 8.6), (1.6, 1.8, 0.9), GRAY),
        ("cyl", (0, -4, 8.4), (0.9, 0.9, 0.6), RED), ("box", (2, -4.5, 5.8), (0.3, 1, 0.8), CREAM),
    ],
    "rocket": [
        ("cyl", (0, 0, 7), (2.4, 2.4, 5.5), WHITE), ("ell", (0, 0, 12.5), (2.4, 2.4, 4.2), RED),
        ("box", (-3, 0, 2.8), (2, 0.35, 2), BLUE), ("box", (1.5, 2.8, 2.8), (0.35, 2, 2), BLUE),
        ("box", (1.5, -2.8, 2.8), (0.35, 2, 2), BLUE), ("ell", (2.2, 0, 9.5), (0.6, 1.1, 1.1), SKY),
        ("cyl", (0, 0, 1.1), (1.5, 1.5, 0.9), DARK), ("box", (0, 2.3, 7), (1, 0.3, 0.6), ORANGE),
    ],
    "sofa": [
        ("box", (0, 0, 2.4), (4, 8, 1.6), VIOLET), ("box", (-3.6, 0, 5.4), (1, 8, 2.6), VIOLET),
        ("box", (0, 7.8, 4), (4, 1, 1.8), VIOLET), ("box", (0, -7.8, 4), (4, 1, 1.8), VIOLET),
        ("box", (-1.8, 4, 5.4), (0.7, 1.8, 1.6), YELLOW, ("y", -20)),
        ("box", (0.4, -3.5, 4.3), (3, 3.2, 0.5), PINK),
        *[("cyl", (x, y, 0.4), (0.5, 0.5, 0.6), BROWN) for x in (-3, 3) for y in (-7, 7)],
    ],
    "fish": [
        ("ell", (0, 0, 5), (7, 2, 3.8), ORANGE), ("ell", (2.4, 0, 5), (0.9, 2.1, 3.7), WHITE),
        ("box", (-7.6, 0, 5), (1.8, 0.3, 2.8), RED, ("y", 20)),
        ("box", (-0.5, 0, 9), (2.4, 0.3, 1.3), RED, ("y", 12)), ("ell", (5, 1.4, 5.9), (0.6, 0.5, 0.6), DARK),
        ("ell", (5, -1.4, 5.9), (0.6, 0.5, 0.6), DARK), ("box", (0.6, 2.4, 3.8), (1.2, 1, 0.2), RED, ("x", -35)),
    ],
    "train": [
        ("box", (-3, 0, 4.2), (4.2, 3, 2.6), GREEN), ("box", (-4.8, 0, 8), (2.4, 3.2, 2.4), LIME),
        ("box", (-4.8, 0, 10.6), (3, 3.7, 0.4), DARK), ("cyl", (3.6, 0, 5), (2.5, 2.5, 3.8), RED, ("y", 90)),
        ("cyl", (5.2, 0, 8.6), (0.9, 0.9, 1.9), DARK), ("cyl", (1.8, 0, 7.8), (0.8, 0.8, 0.9), YELLOW),
        *[("cyl", (x, y, 1.4), (1.5, 1.5, 0.4), DARK, ("x", 90)) for x in (-5, -1, 3, 6) for y in (-2.6, 2.6)],
        ("box", (7.7, 0, 1.6), (0.8, 2.8, 0.9), GRAY),
    ],
    "teddy": [
        ("ell", (0, 0, 5), (3.2, 3.4, 4), BROWN), ("ell", (0.5, 0, 11), (2.8, 3, 2.6), BROWN),
        ("ell", (0, 2.5, 13.3), (0.7, 1.1, 1.1), CREAM), ("ell", (0, -2.5, 13.3), (0.7, 1.1, 1.1), CREAM),
        ("ell", (3, 0, 10.4), (1.1, 1.3, 1), CREAM), ("ell", (4, 0, 10.8), (0.4, 0.5, 0.4), DARK),
        ("ell", (2.7, 1.2, 12), (0.4, 0.4, 0.4), DARK), ("ell", (2.7, -1.2, 12), (0.4, 0.4, 0.4), DARK),
        ("ell", (2.8, 2.2, 1.6), (2.4, 1.3, 1.4), BROWN), ("ell", (2.8, -2.2, 1.6), (2.4, 1.3, 1.4), BROWN),
        ("ell", (1.4, 3.8, 6.8), (1.2, 1.8, 1.1), BROWN), ("ell", (0, -4, 8), (1.1, 1.5, 2.2), BROWN),
        ("box", (2.9, 0, 7.9), (0.5, 1.5, 0.6), RED),
    ],
    "table": [
        ("cyl", (0, 0, 6.4), (6.4, 6.4, 0.5), BROWN), ("cyl", (0, 0, 3.2), (0.8, 0.8, 3), DARK),
        ("cyl", (0, 0, 0.3), (3.2, 3.2, 0.35), DARK), ("ell", (2.4, 2, 7.9), (1.3, 1.3, 1.2), RED),
        ("cyl", (-2.6, -1.6, 8.4), (1, 1, 1.8), SKY), ("box", (1.4, -3, 7.2), (1.8, 1.3, 0.5), GREEN, ("z", 30)),
    ],
    "boat": [
        ("ell", (0, 0, 2.8), (8, 3, 2.6), BLUE), ("box", (0, 0, 4.4), (6.6, 2.5, 0.7), CREAM),
        ("cyl", (0.8, 0, 9), (0.35, 0.35, 6), BROWN), ("box", (-2, 0, 9.6), (2.5, 0.2, 4), WHITE, ("y", 8)),
        ("box", (3, 0, 8.2), (1.6, 0.2, 2.7), RED, ("y", -14)), ("box", (-4.4, 0.6, 5.8), (1.5, 1.5, 1), ORANGE),
    ],
    "guitar": [
        ("ell", (0, 0, 3.6), (1.3, 4.2, 3.8), ORANGE), ("ell", (0, 0, 8), (1.3, 3.1, 2.9), ORANGE),
        ("ell", (1.1, 0, 6.2), (0.4, 1.3, 1.3), DARK), ("box", (0.6, 0, 13), (0.5, 0.7, 4.8), BROWN),
        ("box", (0.4, 0.3, 18.4), (0.4, 1.2, 1.3), DARK), ("box", (1.2, 0, 3.2), (0.4, 1.6, 0.3), DARK),
        ("ell", (0.8, 2.8, 3.4), (0.8, 0.7, 1.7), CREAM),
    ],
    "cactus": [
        ("cyl", (0, 0, 1.8), (3, 3, 1.8), RED), ("cyl", (0, 0, 3.7), (2.6, 2.6, 0.2), BROWN),
        ("ell", (0, 0, 8.6), (2, 2, 5.4), GREEN), ("ell", (0, 3, 8), (0.9, 2, 0.9), GREEN),
        ("ell", (0, 4.4, 9.8), (0.9, 0.9, 2.2), GREEN), ("ell", (0, -2.6, 10), (0.8, 1.6, 0.8), LIME),
        ("ell", (0, -3.8, 11.2), (0.8, 0.8, 1.6), LIME), ("ell", (0.8, 0, 14), (1, 1, 0.8), PINK),
        ("ell", (2.2, 2.2, 3.9), (0.9, 0.9, 0.6), GRAY),
    ],
}  # fmt: skip
HELD_OUT = ("table", "boat", "guitar", "cactus")


def elevations_deg() -> dict[str, float]:
    """Object -> elevation, spread over [-5, 30] within the training objects and within the held-out ones, in mixed order."""
    training = [name for name in OBJECTS if name not in HELD_OUT]
    spread = dict(zip(training, np.random.default_rng(0).permutation(np.linspace(-5, 30, len(training)))))
    spread |= dict(zip(HELD_OUT, (12.0, -3.0, 20.0, 28.0)))
    return {name: round(float(degrees), 1) for name, degrees in spread.items()}


def render_view(name: str, azimuth_deg: float, elevation_deg: float, size_px: int) -> np.ndarray:
    """size_px size_px 4 uint8, straight alpha."""
    parts = [_normalised(part, *_centre_and_scale(OBJECTS[name])) for part in OBJECTS[name]]
    origin, rays = _camera(azimuth_deg, elevation_deg, size_px * OVERSAMPLE)
    depth, normal, colour = np.full(len(rays), np.inf), np.zeros_like(rays), np.zeros_like(rays)
    for kind, centre, half, part_colour, rotation in parts:
        hit_depth, hit_normal = _INTERSECT[kind]((origin - centre) @ rotation / half, rays @ rotation / half)
        nearer = hit_depth < depth
        depth[nearer], colour[nearer] = hit_depth[nearer], part_colour
        normal[nearer] = (hit_normal / half)[nearer] @ rotation.T
    hit = np.isfinite(depth)
    linear = np.concatenate([_shade(normal, rays, colour) * hit[:, None], hit[:, None]], axis=1)  # premultiplied
    side = (size_px, OVERSAMPLE, size_px, OVERSAMPLE, 4)
    linear = linear.reshape(side).mean(axis=(1, 3))
    alpha = linear[..., 3:]
    rgb = np.where(alpha > 0, linear[..., :3] / np.maximum(alpha, 1e-6), 0).clip(0, 1) ** (1 / 2.2)
    return (np.concatenate([rgb, alpha], axis=-1) * 255).round().astype(np.uint8)


def _rotation(axis: str, degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = cos, -sin, sin, cos
    return matrix


def _surface_points(part: tuple) -> np.ndarray:
    kind, centre, half, _, *turn = part
    angle, height = np.linspace(0, 2 * np.pi, 24, endpoint=False), np.linspace(-1, 1, 13)
    a, z = (grid.ravel() for grid in np.meshgrid(angle, height))
    ring = np.sqrt(1 - z**2) if kind == "ell" else np.ones_like(z)
    points = np.stack([ring * np.cos(a), ring * np.sin(a), z], axis=1)
    if kind == "box":
        points = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    return points * half @ (_rotation(*turn[0]) if turn else np.eye(3)).T + centre


def _centre_and_scale(parts: list[tuple]) -> tuple[np.ndarray, float]:
    points = np.concatenate([_surface_points(part) for part in parts])
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    return centre, RADIUS / np.linalg.norm(points - centre, axis=1).max()


def _normalised(part: tuple, centre: np.ndarray, scale: float) -> tuple:
    kind, position, half, colour, *turn = part
    rotation = _rotation(*turn[0]) if turn else np.eye(3)
    return kind, (np.array(position) - centre) * scale, np.array(half) * scale, np.array(colour) ** 2.2, rotation


def _camera(azimuth_deg: float, elevation_deg: float, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    right, up, back = camera_to_world(azimuth_deg, elevation_deg, DISTANCE)[:3, :3].T
    axis = (np.arange(size_px) + 0.5) / size_px * 2 - 1
    x, y = (grid.ravel()[:, None] * np.tan(np.radians(FOV_DEG / 2)) for grid in np.meshgrid(axis, -axis))
    rays = x * right + y * up - back
    return back * DISTANCE, rays / np.linalg.norm(rays, axis=1, keepdims=True)


# Ray against a unit shape at the origin -> depth (inf: missed), outward normal.
def _ellipsoid(origin, rays):
    a, b, c = (rays**2).sum(1), (rays * origin).sum(1), (origin**2).sum() - 1
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    depth = np.where(b * b > a * c, (-b - root) / a, np.inf)
    return depth, origin + np.where(np.isfinite(depth), depth, 0)[:, None] * rays


def _box(origin, rays):
    with np.errstate(divide="ignore"):
        near = (-origin - np.sign(rays)) / rays
        far = (-origin + np.sign(rays)) / rays
    axis = near.argmax(axis=1)
    depth = near.max(axis=1)
    normal = -np.sign(rays) * (np.arange(3) == axis[:, None])
    return np.where(depth < far.min(axis=1), depth, np.inf), normal


def _cylinder(origin, rays):
    a, b, c = (rays[:, :2] ** 2).sum(1), (rays[:, :2] * origin[:2]).sum(1), (origin[:2] ** 2).sum() - 1
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    side_near, side_far = (-b - root) / a, (-b + root) / a
    cap_near, cap_far = (-origin[2] - np.sign(rays[:, 2])) / rays[:, 2], (-origin[2] + np.sign(rays[:, 2])) / rays[:, 2]
    depth = np.maximum(side_near, cap_near)
    depth = np.where((b * b > a * c) & (depth < np.minimum(side_far, cap_far)), depth, np.inf)
    point = origin + np.where(np.isfinite(depth), depth, 0)[:, None] * rays
    cap = -np.sign(rays[:, 2:]) * np.array([0, 0, 1])
    return depth, np.where((cap_near > side_near)[:, None], cap, point * np.array([1, 1, 0]))


_INTERSECT = {"ell": _ellipsoid, "box": _box, "cyl": _cylinder}


def _shade(normal, rays, colour):
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    lamp = np.maximum(normal @ TO_LAMP, 0)[:, None]
    sky = 0.35 + 0.25 * normal[:, 2:]
    half = TO_LAMP - rays
    gloss = np.maximum((normal * half).sum(1) / np.linalg.norm(half, axis=1), 0)[:, None] ** 40
    return colour * (0.8 * lamp + sky) + 0.12 * gloss
