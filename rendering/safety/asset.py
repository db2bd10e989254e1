"""What a file announces against what it holds, before any renderer opens it.

A renderer believes a header: a count of four billion vertices is an allocation, `../../secret.png` is a texture. Here each count is
held against the bytes that are there, and every file that is named must lie in the asset's own folder.
"""

from collections.abc import Iterable
from pathlib import Path

from rendering.safety.companions import unreadable
from rendering.safety.gltf import check_glb, check_gltf
from rendering.safety.shapes import check_obj, check_ply, check_stl

CHECKS = {".glb": check_glb, ".gltf": check_gltf, ".obj": check_obj, ".ply": check_ply, ".stl": check_stl}


def check_asset(path: Path, max_bytes: int) -> None:
    """Raises Failure if the asset, or a file that it names, is missing, damaged, outside the folder, or announces what it lacks.

    `max_bytes` is for the asset and the files it names together.
    """
    try:
        if not path.is_file():
            raise unreadable("not a regular file")
        check_size([path], max_bytes)
        check_size([path, *CHECKS[path.suffix.lower()](path)], max_bytes)
    except OSError as error:
        raise unreadable(f"cannot be read: {error.strerror}") from None


def check_size(paths: Iterable[Path], max_bytes: int) -> None:
    sizes = [path.stat().st_size for path in paths]
    if not sizes[0]:
        raise unreadable("an empty file")
    if sum(sizes) > max_bytes:
        raise unreadable(f"{sum(sizes) / 2**20:.0f} MiB with its textures, more than render.max_asset_mib")
