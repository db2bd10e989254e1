"""transforms.json: the cameras of an orbit, as nerfstudio reads them. `render` and `sample` write it.

nerfstudio's keys: `camera_model`, `w`, `h`, `fl_x`, `fl_y`, `cx`, `cy`, the distortion (none), and in `frames` the `file_path`,
relative to this file, and the `transform_matrix`: camera to world, OpenGL axes, z up. `camera_angle_x` is for readers of NeRF's
own form. Keys of ours, which other readers ignore: `fov_deg`, `distance`, `azimuth_deg` and `elevation_deg` of each frame, and of
a render `renderer` and `object` (see extent.Placement). That one is a key of its own because instant-ngp has a `scale` too.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rendering.camera import FOV_DEG, azimuths_deg, focal_length_px, orbit_distance
from utils.camera import camera_to_world
from utils.files import write_file

TRANSFORMS = "transforms.json"


def orbit_transforms(
    file_names: Sequence[str],
    elevation_deg: float,
    size_px: int,
    fov_deg: float = FOV_DEG,
    distance: float | None = None,
) -> dict:
    """Return the content of the file for square views of one elevation, evenly around from azimuth 0."""
    distance = orbit_distance(fov_deg) if distance is None else distance
    focal_px = focal_length_px(size_px, fov_deg)
    frames = [
        {
            "file_path": name,
            "azimuth_deg": float(azimuth),
            "elevation_deg": float(elevation_deg),
            "transform_matrix": camera_to_world(azimuth, elevation_deg, distance).tolist(),
        }
        for name, azimuth in zip(file_names, azimuths_deg(len(file_names)))
    ]
    return {
        "camera_model": "OPENCV",
        "camera_angle_x": float(np.radians(fov_deg)),
        "w": size_px,
        "h": size_px,
        "fl_x": focal_px,
        "fl_y": focal_px,
        "cx": size_px / 2,
        "cy": size_px / 2,
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),  # of the distortion
        "fov_deg": float(fov_deg),
        "distance": float(distance),
        "frames": frames,
    }


def write_transforms(folder: Path, transforms: dict) -> None:
    write_file(folder / TRANSFORMS, json.dumps(transforms, indent=1) + "\n")
