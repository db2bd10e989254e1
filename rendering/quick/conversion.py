"""Conversion to glTF: the shape of an .obj, .ply or .stl by trimesh, an .obj's materials as Blender's importer understands them.

What an .mtl asks for and is not drawn is refused by name. safety/ refuses what is not drawn of a .ply, for both renderers.
"""

import io
import re
from pathlib import Path
from urllib.parse import quote

import numpy as np

from rendering.gltf import Gltf, reading, refused
from rendering.safety.companions import obj_libraries

# Lines of an .mtl: how many numbers follow, and which of them are drawn, if not all are.
NUMBERS = {"Ka": 3, "Kd": 3, "Ks": 3, "Ke": 3, "Ns": 1, "Ni": 1, "d": 1, "Tr": 1, "illum": 1}
ONLY = {"Ke": {0}, "d": {1}, "Tr": {0}, "illum": {0, 1, 2, 3}}
# Names of an .obj's parts that have no usemtl, and of those with one that no .mtl describes.
NO_USEMTL = "-"
UNKNOWN = "?"
PLY_CORNERS = ("vertex_indices", "vertex_index")
MOST_BESIDE = 0.002  # of a face's area, that its triangles may cover beside it
TOO_SMALL = 1e-6  # of the object's size, squared: what nobody sees, and what rounding makes of a face without an area


def converted(path: Path) -> Gltf:
    """Return the file as glTF. Raises Failure."""
    import trimesh

    kind = path.suffix.lower()
    described = {}
    source = path
    more = {}
    if kind == ".obj":
        described = _described(obj_libraries(path))
        text = _obj_text(path, list(described))
        # trimesh names the parts by their materials if there are two, whatever is in them.
        source = io.BytesIO(text.encode(errors="replace"))
        more = {"file_type": "obj", "resolver": {"library": b"newmtl one\nnewmtl two\n"}}
    with reading("what trimesh reads of it"):
        scene = trimesh.load_scene(source, process=False, **more)
        if scene.is_empty:
            raise refused("no triangles")
        if kind == ".obj":
            _check_obj_faces(text)
        elif kind == ".ply":
            for mesh in scene.geometry.values():
                _check_ply_faces(mesh)
        gltf = Gltf(scene.export(file_type="glb"), path.parent)
    parts = [(mesh["name"], part) for mesh in gltf.tree["meshes"] for part in mesh["primitives"]]
    for _, part in parts:  # trimesh has one also where the file has none
        part.pop("material", None)
    if kind == ".obj":
        _give_materials(gltf.tree, parts, list(described.values()))
    return gltf


def _obj_text(path: Path, names: list[str]) -> str:
    """Rewrite an .obj for trimesh, which knows no indents, no tabs and one library only. A material's number replaces its name."""
    numbers = {name: index for index, name in enumerate(names)}
    text = path.read_text("utf-8", "surrogateescape").replace("\\\n", " ")  # a line that goes on
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r"^ |^ ?#.*", "", text, flags=re.M)
    text = re.sub(r"^((?:f|v|vt|vn) [^#\n]*)#.*", r"\1", text, flags=re.M)  # a material's name may have a # in it
    if re.search(r"^f .*-", text, re.M):
        text = _counted_from_the_first(text)
    text = re.sub(r"^usemtl (.*)", lambda match: f"usemtl {numbers.get(match[1].strip(), UNKNOWN)}", text, flags=re.M)
    if not names:  # or trimesh would drop vertex colours for texture coordinates
        text = re.sub(r"^vt .*", "", text, flags=re.M)
    return f"mtllib library\nusemtl {NO_USEMTL}\n{text}"


def _check_obj_faces(text: str) -> None:
    faces = re.findall(r"^f ((?:\S+ ){3,}\S+)", text, re.M)
    if not faces:
        return
    points = np.array(" ".join(re.findall(r"^v (\S+ \S+ \S+)", text, re.M)).split(" "), float).reshape(-1, 3)
    corners = np.array(re.sub(r"/\S*", "", " ".join(faces)).split(" "), int) - 1
    _check_fans(points, corners, np.array([face.count(" ") + 1 for face in faces]))


def _check_ply_faces(mesh) -> None:
    """trimesh keeps the faces of the file beside its triangles."""
    element = mesh.metadata["_ply_raw"].get("face", {"length": 0})
    if not element["length"]:
        return
    lists = element["data"]
    names = lists if isinstance(lists, dict) else lists.dtype.names
    (corners,) = [lists[name] for name in PLY_CORNERS if name in names]
    corners = corners if corners.dtype.names is None else corners["f1"]
    _check_fans(mesh.vertices, np.concatenate(corners), np.array([len(face) for face in corners]))


def _check_fans(points: np.ndarray, corners: np.ndarray, sizes: np.ndarray) -> None:
    """trimesh divides a face into the triangles at its first corner. Where it has a dent, some would lie beside the face.

    `points`: the vertices (V 3); `corners`: those of all faces, one after another; `sizes`: how many each has. Raises Failure.
    """
    extent = np.ptp(points, axis=0).max()
    starts = np.cumsum(sizes) - sizes
    for size in np.unique(sizes[sizes > 3]):
        polygons = points[corners[starts[sizes == size, None] + np.arange(size)]]
        sides = polygons[:, 1:] - polygons[:, :1]
        fans = np.cross(sides[:, :-1], sides[:, 1:])
        whole = fans.sum(axis=1, keepdims=True)
        area = np.linalg.norm(whole, axis=(1, 2))
        beside = -(fans * whole).sum(axis=-1).clip(max=0).sum(axis=1)  # times `area`
        if (beside > area * np.maximum(MOST_BESIDE * area, TOO_SMALL * extent**2)).any():
            raise refused("not drawn: a face with a dent, which would be filled; render.renderer=blender draws it")


def _counted_from_the_first(text: str) -> str:
    """Rewrite the corners of faces that count back from the line they stand in; trimesh would count from the file's end."""
    counts = {"v": 0, "vt": 0, "vn": 0}
    lines = text.split("\n")
    for place, line in enumerate(lines):
        key, _, rest = line.partition(" ")
        if key in counts:
            counts[key] += 1
        elif key == "f":
            with reading(f"the face {line[:40]}"):
                lines[place] = "f " + " ".join(_counted(corner, list(counts.values())) for corner in rest.split())
    return "\n".join(lines)


def _counted(corner: str, counts: list[int]) -> str:
    """Rewrite `-2/-2/-2`, of which the second may be empty. Raises ValueError if there are not so many."""
    words = corner.split("/")
    for place, (word, count) in enumerate(zip(words, counts)):
        if word.startswith("-"):
            words[place] = str(count + 1 + int(word))
            if not 0 < int(words[place]) <= count:
                raise ValueError(corner)
    return "/".join(words)


def _described(libraries: list[Path]) -> dict[str, dict]:
    """Return what the .mtl files say first of each material, by its name; Blender too takes the first."""
    found = {}
    material = {}
    lines = (line for library in libraries for line in library.read_text("utf-8", "surrogateescape").split("\n"))
    for key, *rest in (words for line in lines if (words := line.split()) and not words[0].startswith("#")):
        if key == "newmtl":
            material = {}
            found.setdefault(" ".join(rest), material)
        elif key in ("map_Kd", "map_Ka") and rest and not rest[0].startswith("-"):
            material[key] = " ".join(rest)
        else:
            try:
                material[key] = [float(word) for word in rest]
            except ValueError:
                rest = []
            if len(rest) != NUMBERS.get(key) or not set(material[key]) <= ONLY.get(key, set(material[key])):
                raise refused(f"not drawn: what its .mtl says of {key}")
    return found


def _give_materials(tree: dict, parts: list[tuple[str, dict]], described: list[dict]) -> None:
    """Add the materials to the glTF. `parts` are its primitives, with the names that _obj_text gave them."""
    pictures = [material["map_Kd"] for material in described if "map_Kd" in material]
    tree["images"] = [{"uri": quote(name, errors="surrogateescape")} for name in pictures]
    tree["textures"] = [{"source": index} for index in range(len(pictures))]
    order = iter(range(len(pictures)))
    tree["materials"] = [_material(lines, next(order) if "map_Kd" in lines else None) for lines in described]
    for name, primitive in parts:
        if name == NO_USEMTL and len(parts) > 1:
            raise refused("not drawn: faces before the first usemtl, to which Blender gives another's material")
        if name != NO_USEMTL:
            primitive["attributes"].pop("COLOR_0", None)  # Blender shows them without a usemtl only
        if name not in (NO_USEMTL, UNKNOWN):
            primitive["material"] = int(name)
            if "map_Kd" in described[int(name)] and "TEXCOORD_0" not in primitive["attributes"]:
                raise refused("not drawn: map_Kd without texture coordinates")


def _material(lines: dict, texture: int | None) -> dict:
    """Return a material as Blender reads it.

    That is map_Kd for Kd, not times Kd; Ks as the specular level, whose 0.5 is glTF's 1; and Ns as roughness.
    """
    (illum,), glossy = lines.get("illum", [1]), lines.get("illum") == [2]
    (exponent,) = lines.get("Ns", [1000.0 * glossy])
    pbr = {
        "metallicFactor": np.mean(lines.get("Ka", 1)) if illum == 3 else 0,
        "roughnessFactor": 1 - np.sqrt(np.clip(exponent, 0, 1000) / 1000),
        "baseColorFactor": [*lines.get("Kd", [0.8] * 3), 1],
    }
    if texture is not None:
        pbr |= {"baseColorFactor": [1, 1, 1, 1], "baseColorTexture": {"index": texture}}
    shine = {
        "KHR_materials_specular": {"specularFactor": 2 * np.mean(lines.get("Ks", float(glossy)))},
        "KHR_materials_ior": {"ior": lines.get("Ni", [1.5])[0]},
    }
    return {"pbrMetallicRoughness": pbr, "extensions": shine}
