"""G-Objaverse: `ID/campos_512_v4/00000/00000.png` with `00000.json` beside it, as folders or as one tar an object.

Its own download script leaves `campos_512_v4` out of the folders, so that both are read.
A camera's json has `x`, `y`, `z` and `origin`: the columns of its camera-to-world matrix, with OpenCV's axes (y down, z
forward).
"""

import math
import os
import re
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, BinaryIO

import numpy as np
from pydantic import Field

from dataset.archives import header_length
from dataset.importers.source import MAX_BYTES, Refusal, SourceItem, SourceObject, SourceView, damage
from utils.errors import UserError
from utils.files import open_file
from utils.reading import Saved, parse_json

VIEWS_FOLDER = "campos_512_v4"
MAX_MEMBER_BYTES = 1 << 26
MAX_VIEWS = 1000
_IN_TAR = re.compile(r"(.*?)/?(\d{5})/(\2\.(?:png|json))")

Vector = tuple[float, float, float]
Member = tuple[str, tuple[int, int]]  # its name, and the bytes at which its header begins and its content ends


class Camera(Saved):
    """What is read of a camera's json."""

    x: Vector
    y: Vector
    z: Vector
    origin: Vector
    x_fov: Annotated[float, Field(gt=0, lt=math.pi)] | None = None  # radians


def objects_in(files: set[str], folders: set[str]) -> tuple[list[str], bool]:
    """Return which entries of a folder are objects ("" is the folder itself), and whether to look into its folders."""
    # Objects have numbers too, such as 10010, but none that begins with zeros.
    if VIEWS_FOLDER in folders or any(re.fullmatch(r"000\d\d", name) for name in folders):
        return [""], False
    return sorted(name for name in files if name.endswith(".tar")), True


def read(source: Path, item: SourceItem) -> SourceObject:
    """Raises Refusal, or UserError."""
    if not item.path.is_dir():
        return _from_tar(source, item)
    folder = item.path / VIEWS_FOLDER
    if not folder.is_dir():
        folder = item.path
    names = sorted(name for name in os.listdir(folder) if re.fullmatch(r"\d{5}", name))
    cameras: dict[str, bytes] = {}
    images: dict[str, Path] = {}
    for name in names[: MAX_VIEWS + 1]:
        present = set(os.listdir(folder / name))
        if f"{name}.json" in present:
            with open_file(folder / name / f"{name}.json") as file:
                cameras[name] = file.read(MAX_MEMBER_BYTES)
        if f"{name}.png" in present:
            images[name] = folder / name / f"{name}.png"
    paths = {name: image.relative_to(source).as_posix() for name, image in images.items()}
    return _object(item.id, cameras, images, paths)


def from_blobs(object_id: str, blobs: Mapping[str, bytes]) -> SourceObject:
    """An object from `00000.png`, `00000.json` and so on, as a tar or a parquet file holds them; other names are ignored."""
    kinds: dict[str, dict[str, bytes]] = {".json": {}, ".png": {}}
    for key, data in blobs.items():
        if re.fullmatch(r"\d{5}\.(json|png)", key):
            kinds[key[5:]][key[:5]] = data
    return _object(object_id, kinds[".json"], kinds[".png"], {})


def _object(
    object_id: str, cameras: Mapping[str, bytes], images: Mapping[str, Path | bytes], paths: Mapping[str, str]
) -> SourceObject:
    """A view whose camera cannot be read is damaged: a download that failed leaves an error page in its place."""
    if len(cameras) > MAX_VIEWS:
        raise Refusal("unreadable", f"more than {MAX_VIEWS} views")
    views: list[SourceView] = []
    damaged = [f"view {name} has no camera" for name in sorted(images.keys() - cameras.keys())]
    for name in sorted(cameras):
        try:
            camera = parse_json(cameras[name], Camera, f"{name}.json")
        except UserError as error:
            damaged.append(str(error))
            continue
        fov_deg = None if camera.x_fov is None else math.degrees(camera.x_fov)
        views.append(SourceView(name, _to_opengl(camera), fov_deg, images.get(name), paths.get(name)))
    if not views:
        reason = damaged[0] if damaged else "no view in it: expected 00000/00000.json and so on"
        raise Refusal("unreadable", reason)
    return SourceObject(object_id, tuple(views), damaged=tuple(damaged))


def _to_opengl(camera: Camera) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3] = np.stack([camera.x, -np.array(camera.y), -np.array(camera.z), camera.origin], axis=1)
    return matrix


def _from_tar(source: Path, item: SourceItem) -> SourceObject:
    """An object whose images stay in its tar. They are called as index_archives would look for them."""
    blobs, members = _tar_blobs(item.path)
    found = from_blobs(item.id, blobs)
    views: list[SourceView] = []
    for view in found.views:
        if view.image is not None:
            name, span = members[f"{view.name}.png"]
            view = replace(view, path=f"{item.id}/{name.removeprefix('./')}", span=span)
        views.append(view)
    archive = (item.path.relative_to(source).as_posix(), item.path.stat().st_size)
    return replace(found, views=tuple(views), archive=archive)


def _tar_blobs(path: Path) -> tuple[dict[str, bytes], dict[str, Member]]:
    """Return the images and cameras in a tar, and where they lie. Names that are not as above are skipped."""
    blobs: dict[str, bytes] = {}
    members: dict[str, Member] = {}
    objects: set[str] = set()
    left = MAX_BYTES
    with open_file(path) as file, damage("not a tar that can be read"):
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise Refusal("unreadable", f"a tar of more than {MAX_BYTES >> 20} MiB is not one object")
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.size < 0:  # an older Python would come back to this member for ever
                    raise Refusal("unreadable", f"{member.name} has {member.size} bytes")
                match = _IN_TAR.fullmatch(member.name)
                if match is None or not member.isreg():
                    continue
                left -= member.size  # a sparse one is larger than the tar
                if member.size > MAX_MEMBER_BYTES or left < 0 or len(blobs) > 2 * MAX_VIEWS:
                    raise Refusal("unreadable", f"{member.name} is too large, or one of too many")
                objects.add(match[1])
                blobs[match[3]] = tar.extractfile(member).read()
                members[match[3]] = member.name, _span(file, member)
    if len(objects) > 1:
        raise Refusal("unreadable", f"the tar holds {len(objects)} objects, expected one")
    return blobs, members


def _span(file: BinaryIO, member: tarfile.TarInfo) -> tuple[int, int]:
    """Return where a member's header begins and its content ends. Raises Refusal if it cannot be read by these two alone."""
    begin = member.offset_data - tarfile.BLOCKSIZE
    end = member.offset_data + member.size
    file.seek(begin)
    try:
        header_length(file.read(tarfile.BLOCKSIZE), end - begin, member.name, "the tar")
    except UserError:
        reason = f"{member.name} is stored in parts, or its name is too long for its header: import it unpacked"
        raise Refusal("unreadable", reason) from None
    return begin, end
