"""What a renderer is: a module with `command(executable)`, and a worker process that turns one job into RGBA views.

The worker is started as `*command(executable) JOB.json`, once an object, so that a crash, a hang or a leak costs that object only.
It reads the fields of Job from the file, writes `000.png`, `001.png`, ... (8 bit sRGB, straight alpha, transparent pixels
black) into `views`, then `result.json` there, a Result. No `result.json`, or an exit code other than 0, MACHINE_EXIT_CODE and
NOT_STARTED_EXIT_CODE, is a crash.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rendering.extent import Placement

# The exit code of a worker that could draw no asset at all; the last line of its stderr says why.
MACHINE_EXIT_CODE = 2
# The exit code of a worker that could not be started, as shells have it.
NOT_STARTED_EXIT_CODE = 127


@dataclass(frozen=True)
class Job:
    asset: str  # .glb .gltf .obj .ply .stl
    views: str  # an empty folder
    camera_to_world: list  # V 4 4, for an object that is centred, scaled to RADIUS, z up: see rendering/camera.py
    fov_deg: float
    size_px: int
    num_samples: int  # rays a pixel, or as many as the renderer comes near to
    environment: str  # .npy, float32 H 2H 3: radiance in linear sRGB, see `environment_column`
    device: str  # cpu | gpu, where the renderer has a choice
    up_axis: str  # y | z: which axis of the asset points up


@dataclass(frozen=True)
class Result:
    """What a worker says at the end. One of the two is given."""

    refused: str | None = None  # why this renderer cannot draw the asset
    object: Placement | None = None


def up_axis(asset: Path, wanted: str) -> str:
    """Return which axis of a file points up, y or z. glTF says so; of the other formats `auto` takes what is usual."""
    suffix = asset.suffix.lower()
    if suffix in (".glb", ".gltf"):
        return "y"
    if wanted != "auto":
        return wanted
    return "y" if suffix == ".obj" else "z"


def to_json(thing: Job | Result) -> str:
    return json.dumps(asdict(thing))


def read_job(path: Path) -> Job:
    return Job(**json.loads(path.read_text()))


def environment_column(azimuth_deg: np.ndarray) -> np.ndarray:
    """Return where in the environment's width, from 0 to 1, the light that comes from an azimuth is.

    Its middle is +x, and to the right azimuths fall, as seen from inside and as Cycles has it. Its first row is straight up.
    """
    return (0.5 - np.asarray(azimuth_deg) / 360) % 1
