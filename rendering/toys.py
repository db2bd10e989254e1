"""Toys to pretrain on: objects of boxes, ellipsoids and cylinders, of random shape, colour and gloss.

A toy is a body with a few parts on it, most of them twice, left and right. It follows from (seed, number) alone. Some are
written as .glb files, to be rendered as any asset is; others are drawn as orbits at once, which is quicker.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rendering.camera import azimuths_deg
from rendering.solids import Light, Solid, fitted, render_solids, rotation
from utils.camera import direction
from utils.files import new_folder, write_atomically
from utils.schemas import TRAINED_ELEVATIONS_DEG

KINDS = ("box", "ell", "cyl")
TOY_ELEVATION, TOY_LIGHT = 1, 2  # what is drawn from a toy's seed, beside its shape
MIRROR_Y = np.diag([1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Part:
    """A piece of a toy. The toy's front is at +x, and z is up."""

    kind: str  # one of KINDS
    centre: np.ndarray  # 3
    half: np.ndarray  # 3: half of its sides, or its radii
    rotation: np.ndarray  # 3 3: its own axes are the columns
    colour: np.ndarray  # 3: sRGB in [0, 1]
    roughness: float
    metallic: float


def draw_toy(random: np.random.Generator, most_details: int = 4) -> list[Part]:
    palette = random.uniform(0.05, 0.95, (random.integers(3, 6), 3)) ** random.uniform(0.6, 1.6)
    gloss = {"roughness": float(random.uniform(0.3, 1)), "metallic": float(random.random() < 0.1)}

    def part(kind: str, centre, half, rotation=None, colour=None) -> Part:
        colour = palette[random.integers(len(palette))] if colour is None else np.array(colour)
        return Part(
            kind, np.array(centre), np.array(half), np.eye(3) if rotation is None else rotation, colour, **gloss
        )

    body = part(random.choice(KINDS), (0, 0, 0), random.uniform(1.5, 5, 3))
    parts = [body]
    if random.random() < 0.5:  # a head, perhaps with eyes
        size = body.half.min() * random.uniform(0.4, 0.9)
        place = body.half * (random.uniform(-0.3, 1), 0, 1) + (0, 0, 0.6 * size)
        head = part(random.choice(KINDS), place, size * random.uniform(0.7, 1.3, 3))
        parts.append(head)
        if random.random() < 0.7:
            eye = head.centre + head.half * (0.85, 0.4, 0.3)
            parts += _twins(part("ell", eye, np.full(3, 0.22 * size), colour=np.full(3, random.choice([0.05, 0.9]))))
    if random.random() < 0.5:  # legs or wheels
        radius, height = body.half.min() * random.uniform(0.15, 0.4), body.half.max() * random.uniform(0.15, 0.6)
        wheel = random.random() < 0.4
        turn = rotation("x", 90) if wheel else np.eye(3)
        colour = palette[random.integers(len(palette))]
        half = (radius, radius, radius * 0.4) if wheel else (radius, radius, height)
        for x in (-0.65, 0.65):
            place = body.half * (x, 0.8, -1) - (0, 0, 0 if wheel else 0.8 * height)
            parts += _twins(part("cyl", place, half, turn, colour))
    for _ in range(random.integers(1, most_details + 1)):
        parent = parts[random.integers(len(parts))]
        direction = random.normal(size=3)
        direction /= np.abs(direction).max()
        half = parent.half.mean() * random.uniform(0.15, 0.7) * random.uniform(0.3, 1.5, 3)
        place = parent.centre + parent.half * direction * random.uniform(0.6, 1.1)
        turn = rotation("xyz"[random.integers(3)], random.uniform(-90, 90)) if random.random() < 0.4 else np.eye(3)
        more = part(random.choice(KINDS), place, half, turn)
        parts += _twins(more) if random.random() < 0.6 else [more]
    return parts


def _twins(part: Part) -> list[Part]:
    mirrored = MIRROR_Y @ part.rotation @ MIRROR_Y
    return [part, Part(**vars(part) | {"centre": MIRROR_Y @ part.centre, "rotation": mirrored})]


def to_glb(parts: list[Part]) -> bytes:
    import trimesh

    scene = trimesh.Scene()
    for part in parts:
        mesh = {
            "box": lambda: trimesh.creation.box(extents=(2, 2, 2)),
            "ell": lambda: trimesh.creation.icosphere(subdivisions=2, radius=1.0),
            "cyl": lambda: trimesh.creation.cylinder(radius=1.0, height=2.0, sections=24),
        }[part.kind]()
        pose = np.eye(4)
        pose[:3, :3] = part.rotation * part.half
        pose[:3, 3] = part.centre
        z_to_y_up = trimesh.transformations.rotation_matrix(-np.pi / 2, (1, 0, 0))  # glTF's axes
        smooth = part.kind == "ell"
        mesh.apply_transform(z_to_y_up @ pose)
        if not smooth:
            mesh.unmerge_vertices()  # so that each face has a normal of its own
        material = trimesh.visual.material.PBRMaterial(
            baseColorFactor=[*(part.colour**2.2), 1.0], roughnessFactor=part.roughness, metallicFactor=part.metallic
        )
        mesh.visual = trimesh.visual.TextureVisuals(material=material)
        scene.add_geometry(mesh)
    file = io.BytesIO()
    scene.export(file, file_type="glb", include_normals=True)
    return file.getvalue()


def write_toys(folder: Path, count: int, seed: int) -> None:
    """Write `count` files, toy_0000.glb and so on. What is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{toy_name(number)}.glb"
        if not path.exists():
            write_atomically(path, to_glb(draw_toy(np.random.default_rng([seed, number]))))


def toy_elevation_deg(seed: int, number: int) -> float:
    """Draw the elevation that a toy is seen from, in degrees, to a thousandth."""
    return round(float(np.random.default_rng([seed, number, TOY_ELEVATION]).uniform(*TRAINED_ELEVATIONS_DEG)), 3)


def draw_light(random: np.random.Generator) -> Light:
    to_lamp = direction(random.uniform(0, 2 * np.pi), np.radians(random.uniform(20, 75)))
    strengths = random.uniform((0.4, 0.2, 0.1, 0.0), (1.0, 0.5, 0.3, 0.2))
    return Light(to_lamp, *map(float, strengths))


def toy_views(seed: int, number: int, num_views: int, size_px: int) -> np.ndarray:
    """Draw a toy from all sides, in a light of its own: V size_px size_px 4, 8-bit, straight alpha."""
    parts = draw_toy(np.random.default_rng([seed, number]), most_details=8)
    solids = fitted([Solid(part.kind, part.centre, part.half, part.colour**2.2, part.rotation) for part in parts])
    light = draw_light(np.random.default_rng([seed, number, TOY_LIGHT]))
    elevation_deg = toy_elevation_deg(seed, number)
    return np.stack(
        [render_solids(solids, azimuth, elevation_deg, size_px, light) for azimuth in azimuths_deg(num_views)]
    )


def toy_name(number: int) -> str:
    return f"toy_{number:04d}"


def write_toy_orbit(root: Path, number: int, seed: int, num_views: int, size_px: int) -> dict:
    """Write the toy's folder in `root`, if it is not there, and return its line of svd_meta.jsonl."""
    name = toy_name(number)
    names = [f"{view:03d}.png" for view in range(num_views)]
    if not (root / name).exists():
        with new_folder(root / name) as unfinished:
            for path, pixels in zip(names, toy_views(seed, number, num_views, size_px)):
                Image.fromarray(pixels).save(unfinished / path)
    elevations_deg = [toy_elevation_deg(seed, number)] * num_views
    return {"id": name, "image_path": [f"{name}/{path}" for path in names], "elevation": elevations_deg}
