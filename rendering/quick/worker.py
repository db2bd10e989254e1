"""The quick renderer's process: `python worker.py JOB.json`. It traces camera rays and shades what they meet with baked light."""

import sys
from pathlib import Path

import numpy as np
from embreex import mesh_construction, rtcore_scene
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from rendering.camera import focal_length_px, orbit_distance
from rendering.failure import Failure
from rendering.job import Job, Result, read_job, to_json
from rendering.quick.baking import RAY_OFFSET, bake_lighting
from rendering.quick.environment import Environment, look_up
from rendering.quick.material import dominant_direction, dot, environment_brdf, srgb, unit
from rendering.quick.mesh import Mesh, load_mesh
from utils.images import allow_only_image_formats

RAYS_AT_ONCE = 1 << 18
MAX_LAYERS = 64  # transparent surfaces behind each other
# Surfaces that are smoother show in their reflections what a traced ray meets: the object's own faces, as if they were matt.
TRACED_ROUGHNESS = 0.4


def main(job_path: str) -> None:
    allow_only_image_formats()  # trimesh opens images too
    job = read_job(Path(job_path))
    side = max(1, round(job.num_samples**0.5))
    try:
        texels_per_unit = focal_length_px(job.size_px, job.fov_deg) * side / orbit_distance(job.fov_deg)
        mesh = load_mesh(Path(job.asset), job.up_axis, texels_per_unit)
    except Failure as failure:
        result = Result(refused=failure.reason)
    else:
        scene = Scene(mesh, np.load(job.environment))
        for index, matrix in enumerate(job.camera_to_world):
            image = Image.fromarray(to_straight_srgb(render_view(scene, np.array(matrix), job, side)))
            image.save(Path(job.views, f"{index:03d}.png"))
        result = Result(object=mesh.placement)
    Path(job.views, "result.json").write_text(to_json(result))


class Scene:
    """A mesh in its light, ready to be asked for the radiance along a ray."""

    def __init__(self, mesh: Mesh, environment: np.ndarray):
        self.mesh = mesh
        self.environment = Environment(environment)
        self.embree = rtcore_scene.EmbreeScene()
        mesh_construction.TriangleMesh(self.embree, np.ascontiguousarray(mesh.corners.position))
        self.leaving = bake_lighting(mesh, self.embree, self.environment)

    def radiance(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Return premultiplied linear colour and alpha along N rays (N 4), through as many layers as let light through."""
        live = np.arange(len(origins))
        total = np.zeros((len(live), 4), np.float32)
        transmitted = np.ones((len(live), 1), np.float32)
        for _ in range(MAX_LAYERS):
            hit = self.embree.run(origins[live], directions[live], query="INTERSECT", output=1)
            met = hit["primID"] >= 0
            hit = {name: values[met] for name, values in hit.items()}
            live = live[met]
            if not live.size:
                break
            colour, alpha = self.shade(hit, directions[live])
            total[live] += transmitted[live] * alpha * np.concatenate([colour, np.ones_like(alpha)], axis=1)
            transmitted[live] *= 1 - alpha
            origins[live] += directions[live] * (hit["tfar"][:, None] + RAY_OFFSET)
            live = live[transmitted[live, 0] > 1e-3]
        return total

    def shade(self, hit: dict, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return colour (N 3) and alpha (N 1) of what rays of these directions met, seen from the side that they come from."""
        u = hit["u"][:, None]
        v = hit["v"][:, None]
        triangle = hit["primID"]

        def interpolate(values: np.ndarray) -> np.ndarray:
            one, two, three = values[triangle].transpose(1, 0, 2)
            return one * (1 - u - v) + two * u + three * v

        points = self.mesh.corners.map(interpolate)
        surface = self.mesh.surface(points, self.mesh.material_of[triangle])
        side = np.where(dot(hit["Ng"], directions) < 0, 1, -1).astype(np.float32)
        face_normal = unit(hit["Ng"]) * side
        normal = surface.normal * side
        visibility = np.where(side > 0, *np.split(points.visibility, 2, axis=1))
        cos_view = np.clip(-dot(normal, directions), 1e-3, 1)
        towards = dominant_direction(normal, directions + 2 * cos_view * normal, surface.roughness)
        origins = points.position + RAY_OFFSET * face_normal
        reflected = self.reflected_radiance(origins, towards, face_normal, surface.roughness, visibility)
        specular = environment_brdf(surface.f0, surface.roughness, cos_view)
        diffuse = surface.diffuse * (1 - specular.max(axis=1, keepdims=True))
        irradiance = look_up(self.environment.irradiance, normal) * visibility
        return surface.emission + diffuse * irradiance + specular * reflected, surface.alpha

    def reflected_radiance(self, origins, directions, face_normal, roughness, visibility) -> np.ndarray:
        """Return what the surface reflects (N 3): the environment as far as it is visible, or what a ray meets if it is smooth."""
        unblocked = self.environment.prefiltered_radiance(directions, roughness[:, 0])
        reflected = unblocked * np.minimum(visibility, 1)
        smooth = np.nonzero((roughness[:, 0] < TRACED_ROUGHNESS) & (dot(directions, face_normal)[:, 0] > 0))[0]
        hit = self.embree.run(np.float32(origins[smooth]), directions[smooth], query="INTERSECT", output=1)
        back = np.int64(dot(hit["Ng"], directions[smooth])[:, 0] > 0)
        traced = np.where(hit["primID"][:, None] >= 0, self.leaving[hit["primID"], back], unblocked[smooth])
        weight = np.clip((TRACED_ROUGHNESS - roughness[smooth]) * 3, 0, 1)
        reflected[smooth] += weight * (traced - reflected[smooth])
        return reflected


def render_view(scene: Scene, to_world: np.ndarray, job: Job, side: int) -> np.ndarray:
    """Return a view as premultiplied linear H W 4, the mean of side x side rays a pixel."""
    size = job.size_px
    focal_px = focal_length_px(size, job.fov_deg)
    places = (np.arange(size * side) + 0.5) / side - size / 2
    rows = max(1, RAYS_AT_ONCE // (size * side * side)) * side
    strips = []
    for start in range(0, size * side, rows):
        x, y = np.meshgrid(places, places[start : start + rows])
        seen = np.stack([x, -y, np.full_like(x, -focal_px)], axis=-1).reshape(-1, 3)
        directions = unit(seen @ to_world[:3, :3].T).astype(np.float32)
        light = scene.radiance(np.tile(np.float32(to_world[:3, 3]), (len(directions), 1)), directions)
        strips.append(light.reshape(-1, side, size, side, 4).mean(axis=(1, 3)))
    return np.concatenate(strips)


def to_straight_srgb(pixels: np.ndarray) -> np.ndarray:
    """Convert premultiplied linear H W 4 to straight sRGB bytes, black where nothing is."""
    colour = np.clip(pixels[..., :3] / np.maximum(pixels[..., 3:], 1e-6), 0, 1)
    image = np.round(np.concatenate([srgb(colour), pixels[..., 3:].clip(0, 1)], axis=-1) * 255).astype(np.uint8)
    return image * (image[..., 3:] > 0)


if __name__ == "__main__":
    main(sys.argv[1])
