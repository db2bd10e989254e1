"""An asset as the triangles the quick renderer draws: centred, scaled, z up, cut small enough to hold the light at their corners.

.glb, .gltf and .obj are y up: their (x, y, z) is the world's (x, -z, y); .ply and .stl are z up. What is damaged or cannot be drawn right is a
ValueError.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from dataset.rendering.camera import RADIUS
from dataset.rendering.gltf import Gltf, demands, inside, primitives, texture_infos
from dataset.rendering.quick_surface import COLOUR, NORMAL, POSITION, TANGENTS, UV, Asset, Texture, linear

DRAWN = {
    "KHR_materials_emissive_strength",
    "KHR_materials_ior",
    "KHR_materials_pbrSpecularGlossiness",
    "KHR_materials_unlit",
}
DRAWN |= {
    "KHR_materials_specular",
    "KHR_mesh_quantization",
    "KHR_texture_transform",
    "EXT_texture_webp",
    "skin",
    "morph targets",
}
DRAWN |= {"vertex colours", "alpha OPAQUE", "alpha MASK", "alpha BLEND"}
PAINTED = {
    "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 0.5}
}  # for vertex colours without a material
BARE = {"pbrMetallicRoughness": {"baseColorFactor": [0.8, 0.8, 0.8, 1], "metallicFactor": 0, "roughnessFactor": 0.5}}
Y_UP = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # where x, y and z go
LONGEST_EDGE, MOST_CUT = 0.03, 150_000  # of the triangles; many more than that are not cut


def load(path: Path, texels_per_unit: float) -> Asset:
    """Textures with more than `texels_per_unit` on a unit of the surface are brought down to it, or they would flicker."""
    up, read = {".glb": (Y_UP, _read_gltf), ".gltf": (Y_UP, _read_gltf), ".obj": (Y_UP, _read_obj)}.get(
        path.suffix.lower(), (np.eye(3), _read_bare)
    )
    parts, materials, open_image = read(path)
    parts = [(named | {"POSITION": named["POSITION"] @ up}, index) for named, index in parts if len(named["POSITION"])]
    if not parts:
        raise ValueError("no triangles")
    lowest = np.min([named["POSITION"].min(axis=(0, 1)) for named, _ in parts], axis=0)
    centre = (lowest + np.max([named["POSITION"].max(axis=(0, 1)) for named, _ in parts], axis=0)) / 2
    farthest = max(np.linalg.norm(named["POSITION"] - centre, axis=-1).max() for named, _ in parts)
    if not 0 < farthest < np.inf:
        raise ValueError("no extent, or positions that are no numbers")
    corners = np.concatenate([_packed(named, up, centre, RADIUS / farthest) for named, _ in parts])
    material_of = np.concatenate([np.full(len(named["POSITION"]), index) for named, index in parts])
    textures = [{} for _ in materials]
    for index in np.unique(material_of):
        chosen = material_of == index
        for name, info in texture_infos(materials[index]):
            if name != "occlusionTexture":
                opaque = materials[index].get("alphaMode", "OPAQUE") == "OPAQUE" or name not in (
                    "baseColorTexture",
                    "diffuseTexture",
                )
                textures[index][name] = _texture(*open_image(info), info, corners[chosen], texels_per_unit, opaque)
        if "normalTexture" in textures[index]:
            corners[chosen, :, TANGENTS] = _tangents(corners[chosen], textures[index]["normalTexture"])[:, None]
    return Asset(*_cut(corners, material_of), materials, textures)


def _packed(named: dict, up: np.ndarray, centre: np.ndarray, scale: float) -> np.ndarray:
    """T 3 26; a face with a useless normal gets its own, flat one."""
    points = (named["POSITION"] - centre) * scale
    corners = np.zeros((len(points), 3, 26), np.float32)
    corners[..., POSITION], corners[..., COLOUR] = points, 1
    flat = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-30)
    normals = named["NORMAL"] @ up if "NORMAL" in named else np.zeros_like(points)
    lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
    useful = (lengths > 1e-12).all(axis=1, keepdims=True)
    corners[..., NORMAL] = np.where(useful, normals / np.where(useful, lengths, 1), flat[:, None])
    inward = (flat * corners[..., NORMAL].sum(axis=1)).sum(axis=1) < 0
    for number, columns in enumerate((slice(6, 8), slice(8, 10))):
        corners[..., columns] = np.nan_to_num(named.get(f"TEXCOORD_{number}", 0))
    colours = named.get("COLOR_0", np.ones((1, 1, 4)))
    corners[..., COLOUR.start : COLOUR.start + colours.shape[-1]] = colours
    corners[inward, 1:] = corners[inward, :0:-1]  # the front of a face is where its normals point
    return corners


def _texture(image, sampler: dict, info: dict, corners: np.ndarray, texels_per_unit: float, opaque: bool) -> Texture:
    if image.mode.startswith("I"):
        raise ValueError("a texture of 16-bit grey")
    image = image.convert("RGBA")
    texture = Texture(
        np.asarray(image),
        info,
        (sampler.get("wrapS", 10497), sampler.get("wrapT", 10497)),
        sampler.get("magFilter") == 9728,
    )
    shape = np.diff(texture.place(corners[..., UV]), axis=1)
    sides = np.diff(corners[..., POSITION], axis=1)
    texels = np.abs(np.linalg.det(shape)).sum() * image.width * image.height
    units = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1).sum()
    shrink = np.sqrt(texels / max(units, 1e-12)) / texels_per_unit
    if shrink > 1:
        size = [max(1, round(length / shrink)) for length in image.size]
        # Colours are averaged by their alpha (as Pillow does) where alpha means coverage, else each channel by itself.
        image = (
            Image.merge("RGBA", [band.resize(size, Image.BOX) for band in image.split()])
            if opaque
            else image.resize(size, Image.BOX)
        )
        texture.texels, texture.nearest = np.asarray(image), False
    return texture


def _tangents(corners: np.ndarray, texture: Texture) -> np.ndarray:
    """T 6: where the texture's u grows, and where its v falls (a normal map's y points up)."""
    (u1, v1), (u2, v2) = np.diff(texture.place(corners[..., UV]), axis=1).transpose(1, 2, 0)[..., None]
    one, two = np.diff(corners[..., POSITION], axis=1).transpose(1, 0, 2)
    turned = np.sign(u1 * v2 - u2 * v1)
    return np.concatenate([turned * (one * v2 - two * v1), turned * (one * u2 - two * u1)], axis=1)


def _cut(corners: np.ndarray, material_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles with an edge over LONGEST_EDGE are halved across it, again and again."""
    while len(corners) < MOST_CUT:
        edges = np.linalg.norm(corners[..., POSITION] - np.roll(corners[..., POSITION], -1, axis=1), axis=-1)
        long = edges.max(axis=1) > LONGEST_EDGE
        if not long.any():
            break
        order = (edges[long].argmax(axis=1)[:, None] + np.arange(3)) % 3
        one, two, three = np.take_along_axis(corners[long], order[..., None], axis=1).transpose(1, 0, 2)
        middle = (one + two) / 2
        halves = [np.stack([one, middle, three], axis=1), np.stack([middle, two, three], axis=1)]
        corners = np.concatenate([corners[~long], *halves])
        material_of = np.concatenate([material_of[~long], material_of[long], material_of[long]])
    return corners, material_of


Parts = tuple[
    list[tuple[dict, int]], list[dict], Callable
]  # (named corners, material) each; materials; texture info -> (image, sampler)


def _read_gltf(path: Path) -> Parts:
    gltf = Gltf(path)
    unable = sorted(demands(gltf.tree) - DRAWN)
    if unable:
        raise ValueError(f"the quick renderer does not draw {', '.join(unable)}")
    materials = [*gltf.tree.get("materials", []), BARE, PAINTED]

    def open_image(info: dict):
        texture = gltf.tree["textures"][info["index"]]
        source = texture.get("extensions", {}).get("EXT_texture_webp", texture)["source"]
        sampler = gltf.tree["samplers"][texture["sampler"]] if "sampler" in texture else {}
        return Image.open(io.BytesIO(gltf.image(source))), sampler

    parts = []
    for named, index in primitives(gltf):
        bare = len(materials) - (1 if "COLOR_0" in named else 2)
        parts.append((named, bare if index is None else index))
    return parts, materials, open_image


def _read_bare(path: Path) -> Parts:
    """.ply or .stl."""
    read = {".ply": trimesh.exchange.ply.load_ply, ".stl": trimesh.exchange.stl.load_stl}[path.suffix.lower()]
    with open(path, "rb") as file:
        mesh = read(file, skip_materials=True)
    return [(_named(mesh), 1 if "vertex_colors" in mesh else 0)], [BARE, PAINTED], None


def _named(mesh: dict) -> dict:
    """trimesh's arrays of a mesh under glTF's names. Colours are sRGB bytes there, and linear here."""
    faces = np.asarray(mesh["faces"])
    named = {"POSITION": mesh["vertices"][faces].astype(float)}
    if "vertex_normals" in mesh:
        named["NORMAL"] = mesh["vertex_normals"][faces]
    if "vertex_colors" in mesh:
        colours = np.asarray(mesh["vertex_colors"])[faces][..., :3]
        named["COLOR_0"] = linear(colours / (255 if colours.dtype.kind in "iu" else 1))
    visual = mesh.get("visual")
    if visual is not None and visual.uv is not None:
        named["TEXCOORD_0"] = (visual.uv * (1, -1) + (0, 1))[faces]
    return named


def _read_obj(path: Path) -> Parts:
    files, names, materials = [], {}, [BARE, PAINTED]
    libraries = [
        line.split(None, 1)[1].strip()
        for line in path.read_text(errors="replace").splitlines()
        if line.startswith("mtllib ")
    ]
    for library in libraries:
        for name, material in _read_mtl(inside(path.parent, library), files):
            names[name] = len(materials)
            materials.append(material)
    with open(path, "rb") as file:
        found = trimesh.exchange.obj.load_obj(file, trimesh.resolvers.FilePathResolver(str(path)))
    parts = []
    for mesh in found.get("geometry", {}).values():
        index = names.get(getattr(getattr(mesh["visual"], "material", None), "name", None))
        parts.append((_named(mesh), int("vertex_colors" in mesh) if index is None else index))
    return parts, materials, lambda info: (Image.open(files[info["index"]]), {})


def _read_mtl(path: Path, files: list[Path]) -> Iterator[tuple[str, dict]]:
    """(name, the glTF material next to it) of each, read as Blender reads them; textures' paths are appended to `files`."""
    for block in path.read_text(errors="replace").split("newmtl ")[1:]:
        name, *lines = (line.strip() for line in block.splitlines())
        keys = {key: value.strip() for key, _, value in (line.partition(" ") for line in lines if line)}
        unable = sorted(key for key in keys if key.startswith(("map_", "bump", "norm", "disp", "refl", "decal")))
        unable = [key for key in unable if key != "map_Ka" and (key != "map_Kd" or keys[key].startswith("-"))]
        if unable:
            raise ValueError(f"the quick renderer does not draw {', '.join(unable)} of {path.name}")
        alpha = float(keys.get("d", 1 - float(keys.get("Tr", 0))))
        colour = [float(number) for number in keys.get("Kd", "0.8 0.8 0.8").split()[:3]]
        shine = 1 - np.sqrt(np.clip(float(keys["Ns"]) / 1000, 0, 1)) if "Ns" in keys else 0.5
        pbr = {"metallicFactor": float(keys.get("Pm", 0)), "roughnessFactor": float(keys.get("Pr", shine))}
        if "map_Kd" in keys:
            pbr["baseColorTexture"], colour = {"index": len(files)}, [1, 1, 1]
            files.append(inside(path.parent, keys["map_Kd"].replace("\\", "/")))
        glow = [float(number) for number in keys.get("Ke", "0 0 0").split()[:3]]
        material = {"pbrMetallicRoughness": pbr | {"baseColorFactor": [*colour, alpha]}, "emissiveFactor": glow}
        yield name, material | {"alphaMode": "BLEND" if alpha < 1 else "OPAQUE"}
