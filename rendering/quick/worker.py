"""The quick renderer's process: `python worker.py JOB.json`. Mirrors show the object's own faces as matt ones."""

import json
import sys
from pathlib import Path

import numpy as np
from embreex import mesh_construction, rtcore_scene
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from rendering.camera import focal_length_px, orbit_distance
from rendering.failure import Failure
from rendering.job import Job, read_job
from rendering.quick.light import EPSILON, Sky, light_up, look_up
from rendering.quick.material import dot, lobe, mirrored_part, srgb, unit
from rendering.quick.triangles import OPENNESS, POSITION, Asset, load

RAYS_AT_ONCE, MAX_LAYERS = 1 << 18, 64
ROUGH = 0.4  # from there on, no single ray is asked what a surface mirrors


def main(job_path: str) -> None:
    job, refused = read_job(Path(job_path)), None
    side = max(1, round(job.num_samples**0.5))
    try:
        asset = load(Path(job.asset), focal_length_px(job.size_px, job.fov_deg) * side / orbit_distance(job.fov_deg))
    except Failure as failure:
        refused = failure.reason
    else:
        scene = Scene(asset, np.load(job.environment))
        for index, matrix in enumerate(job.camera_to_world):
            image = Image.fromarray(to_straight_srgb(view(scene, np.array(matrix), job, side)))
            image.save(Path(job.views, f"{index:03d}.png"))
    Path(job.views, "result.json").write_text(json.dumps({"refused": refused}))


class Scene:
    def __init__(self, asset: Asset, environment: np.ndarray):
        self.asset, self.sky, self.embree = asset, Sky(environment), rtcore_scene.EmbreeScene()
        mesh_construction.TriangleMesh(self.embree, np.ascontiguousarray(asset.corners[..., POSITION]))
        self.leaving = light_up(asset, self.embree, self.sky)

    def radiance(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """N 4: premultiplied linear colour and alpha along N rays, through as many layers as let light through."""
        live = np.arange(len(origins))
        total, through = np.zeros((len(live), 4), np.float32), np.ones((len(live), 1), np.float32)
        for _ in range(MAX_LAYERS):
            hit = self.embree.run(origins[live], directions[live], query="INTERSECT", output=1)
            met = hit["primID"] >= 0
            hit, live = {name: values[met] for name, values in hit.items()}, live[met]
            if not live.size:
                break
            colour, alpha = self.shade(hit, directions[live])
            total[live] += through[live] * alpha * np.concatenate([colour, np.ones_like(alpha)], axis=1)
            through[live] *= 1 - alpha
            origins[live] += directions[live] * (hit["tfar"][:, None] + EPSILON)
            live = live[through[live, 0] > 1e-3]
        return total

    def shade(self, hit: dict, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Colour and alpha of what rays of these directions met."""
        u, v, triangle = hit["u"][:, None], hit["v"][:, None], hit["primID"]
        one, two, three = self.asset.corners[triangle].transpose(1, 0, 2)
        at = one * (1 - u - v) + two * u + three * v
        diffuse, specular, glow, normal, rough, alpha = self.asset.surface(at, self.asset.material_of[triangle])
        side = np.where(dot(hit["Ng"], directions) < 0, 1, -1).astype(np.float32)
        face, normal = unit(hit["Ng"]) * side, normal * side
        openness = np.where(side > 0, *np.split(at[:, OPENNESS], 2, axis=1))
        facing = np.clip(-dot(normal, directions), 1e-3, 1)
        towards = lobe(normal, directions + 2 * facing * normal, rough)
        shown = self.mirrored(at[:, POSITION] + EPSILON * face, towards, face, rough, openness)
        gloss = mirrored_part(specular, rough, facing)
        matt = diffuse * (1 - gloss.max(axis=1, keepdims=True)) * look_up(self.sky.diffuse, normal) * openness
        return glow + matt + gloss * shown, alpha

    def mirrored(self, points, directions, face, roughness, openness) -> np.ndarray:
        """What the surface mirrors: the sky as far as it is open, or for smooth ones what a ray meets."""
        shown = self.sky.reflected(directions, roughness[:, 0])
        dimmed = shown * np.minimum(openness, 1)
        smooth = np.nonzero((roughness[:, 0] < ROUGH) & (dot(directions, face)[:, 0] > 0))[0]
        met = self.embree.run(np.float32(points[smooth]), directions[smooth], query="INTERSECT", output=1)
        back = np.int64(dot(met["Ng"], directions[smooth])[:, 0] > 0)
        seen = np.where(met["primID"][:, None] >= 0, self.leaving[met["primID"], back], shown[smooth])
        dimmed[smooth] += np.clip((ROUGH - roughness[smooth]) * 3, 0, 1) * (seen - dimmed[smooth])
        return dimmed


def view(scene: Scene, to_world: np.ndarray, job: Job, side: int) -> np.ndarray:
    """H W 4: premultiplied linear, the mean of side x side rays a pixel."""
    size, focal_px = job.size_px, focal_length_px(job.size_px, job.fov_deg)
    places = (np.arange(size * side) + 0.5) / side - size / 2
    rows, strips = max(1, RAYS_AT_ONCE // (size * side * side)) * side, []
    for start in range(0, size * side, rows):
        x, y = np.meshgrid(places, places[start : start + rows])
        seen = np.stack([x, -y, np.full_like(x, -focal_px)], axis=-1).reshape(-1, 3)
        directions = unit(seen @ to_world[:3, :3].T).astype(np.float32)
        light = scene.radiance(np.tile(np.float32(to_world[:3, 3]), (len(directions), 1)), directions)
        strips.append(light.reshape(-1, side, size, side, 4).mean(axis=(1, 3)))
    return np.concatenate(strips)


def to_straight_srgb(pixels: np.ndarray) -> np.ndarray:
    """Premultiplied linear H W 4 -> straight sRGB bytes, black where nothing is."""
    colour = np.clip(pixels[..., :3] / np.maximum(pixels[..., 3:], 1e-6), 0, 1)
    image = np.round(np.concatenate([srgb(colour), pixels[..., 3:].clip(0, 1)], axis=-1) * 255).astype(np.uint8)
    return image * (image[..., 3:] > 0)


if __name__ == "__main__":
    main(sys.argv[1])
