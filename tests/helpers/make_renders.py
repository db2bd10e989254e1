"""Sources for `import_orbits`, in each format, drawn by our own renderer of solids from cameras that are known."""

import io
import json
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from rendering.solids import render_view
from utils.camera import camera_to_world

SIZE_PX = 24
FOV_RAD = 0.691150367
Z_UP = np.eye(3)
Y_UP = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # of a z-up world: glTF's, in which x stays x
TILTED = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
TILTED = TILTED * np.linalg.det(TILTED)
MIRRORED = np.diag([-1, 1, 1])

Pose = tuple[float, float]  # azimuth and elevation in degrees
RING_24 = [(azimuth * 15.0, 12.0) for azimuth in range(24)]
RING_12 = [(azimuth * 30.0, -3.5) for azimuth in range(12)]
GOBJAVERSE = [*RING_24, RING_24[0], (0.0, 90.0), (0.0, -90.0), *RING_12, RING_12[0]]  # as its 40 views stand
DOME = [(azimuth * 30.0, elevation) for elevation in (0.0, 30.0, 60.0, 90.0) for azimuth in range(12)]


@cache
def pixels(name: str, pose: Pose) -> np.ndarray:
    """SIZE SIZE 4 uint8: what must be seen from there."""
    return render_view(name, pose[0] % 360, pose[1], SIZE_PX)


def png(name: str, pose: Pose) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels(name, pose)).save(data, "PNG")
    return data.getvalue()


def camera(pose: Pose, world: np.ndarray = Z_UP, distance: float = 1.896) -> np.ndarray:
    """4 4, OpenGL axes, in a world that is `world` times ours."""
    matrix = camera_to_world(*pose, distance)
    matrix[:3] = world @ matrix[:3]
    return matrix


def cameras(poses: Sequence[Pose], world: np.ndarray = Z_UP) -> np.ndarray:
    return np.stack([camera(pose, world) for pose in poses])


def gobjaverse_json(pose: Pose, world: np.ndarray = Z_UP) -> bytes:
    x, y, z, origin = camera(pose, world)[:3].T
    columns = {"x": x, "y": -y, "z": -z, "origin": origin}
    values = {key: value.tolist() for key, value in columns.items()}
    return json.dumps(values | {"x_fov": FOV_RAD, "y_fov": FOV_RAD, "bbox": [[-0.5] * 3, [0.5] * 3]}).encode()


def gobjaverse_blobs(name: str, poses: Sequence[Pose] = GOBJAVERSE, world: np.ndarray = Z_UP) -> dict[str, bytes]:
    blobs: dict[str, bytes] = {}
    for number, pose in enumerate(poses):
        blobs[f"{number:05d}.png"] = png(name, pose)
        blobs[f"{number:05d}_albedo.png"] = b"not read"
        blobs[f"{number:05d}.json"] = gobjaverse_json(pose, world)
    return blobs


def write_gobjaverse(folder: Path, blobs: dict[str, bytes], below: str = "campos_512_v4") -> Path:
    for key, data in blobs.items():
        path = folder / below / key[:5] / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_tar(path: Path, blobs: dict[str, bytes], below: str = "", form: int = tarfile.DEFAULT_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for key, data in blobs.items():
            member = tarfile.TarInfo(f"{below}{path.stem}/campos_512_v4/{key[:5]}/{key}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_parquet(path: Path, columns: dict[str, list], metadata: dict[str, str] | None = None) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns).replace_schema_metadata(metadata), path)
    return path


def write_transforms(folder: Path, name: str, poses: Sequence[Pose], world: np.ndarray = Z_UP, **more) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    frames = []
    for number, pose in enumerate(poses):
        (folder / f"{number:03d}.png").write_bytes(png(name, pose))
        frames.append({"file_path": f"./{number:03d}.png", "transform_matrix": camera(pose, world).tolist()})
    (folder / "transforms.json").write_text(json.dumps({"camera_angle_x": FOV_RAD, "frames": frames} | more))
    return folder


def write_npy(folder: Path, name: str, poses: Sequence[Pose], world: np.ndarray = Z_UP) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, pose in enumerate(poses):
        (folder / f"{number:03d}.png").write_bytes(png(name, pose))
        np.save(folder / f"{number:03d}.npy", np.linalg.inv(camera(pose, world))[:3])
    return folder
