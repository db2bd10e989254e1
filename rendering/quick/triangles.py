"""An asset as triangles in the world, with what a renderer needs at their corners, and its materials at any spot.

Every face is drawn from both sides; occlusion textures and the file's tangents are not used. .glb, .gltf and .obj are y up, .ply
and .stl z up. What cannot be drawn right is a Failure.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rendering.camera import RADIUS
from rendering.gltf import Gltf, demands, primitives, reading, refused, texture_infos
from rendering.quick import material as gltf_material
from rendering.quick.conversion import converted
from rendering.quick.material import NEAREST, Texture, linear

DRAWN = gltf_material.DRAWN | {"KHR_mesh_quantization", "EXT_texture_webp", "skin", "morph targets"}
# Columns of a corner. OPENNESS is the light that arrives over the light that would without the object, in front of the face (r g b)
# and behind it.
POSITION, NORMAL, UV, COLOUR, TANGENTS, OPENNESS = map(slice, (0, 3, 6, 10, 14, 20), (3, 6, 10, 14, 20, 26))
Y_UP, Z_UP = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]), np.eye(3)  # where x, y and z go
# A surface without a material, with and without vertex colours.
PLAIN = {"metallicFactor": 0, "roughnessFactor": 0.5}
BARE = [{"pbrMetallicRoughness": PLAIN | {"baseColorFactor": [0.8, 0.8, 0.8, 1]}}, {"pbrMetallicRoughness": PLAIN}]
LONGEST_EDGE, MANY = 0.03, 150_000  # triangles are cut up to this, unless there are many


@dataclass
class Asset:
    corners: np.ndarray  # T 3 26
    material_of: np.ndarray  # T
    materials: list[dict]
    textures: list[dict[str, Texture]]  # of each material, by their names in it

    def surface(self, at: np.ndarray, material_of: np.ndarray) -> list[np.ndarray]:
        """N 26 -> diffuse, specular, glow, normal (N 3), roughness, alpha (N 1): see gltf_material.answer."""
        found = np.empty((len(at), 14), np.float32)
        for index in np.unique(material_of):
            chosen = np.nonzero(material_of == index)[0]
            spots = (at[chosen][:, columns] for columns in (UV, COLOUR, NORMAL, TANGENTS))
            found[chosen] = gltf_material.answer(self.materials[index], self.textures[index], *spots)
        return np.split(found, [3, 6, 9, 12, 13], axis=1)


def load(path: Path, texels_per_unit: float) -> Asset:
    """Textures with more than `texels_per_unit` on a unit of the surface are brought down to it, or they would flicker."""
    foreign = path.suffix.lower() not in (".glb", ".gltf")
    gltf = converted(path) if foreign else Gltf(path.read_bytes(), path.parent)
    with reading("its JSON"):
        unable = sorted(demands(gltf.tree) - DRAWN)
    if unable:
        raise refused(f"not drawn: {', '.join(unable)}")
    parts = [(named, index) for named, index in primitives(gltf) if len(named["POSITION"])]
    for named in (named for named, _ in parts if foreign and "COLOR_0" in named):
        named["COLOR_0"] = linear(named["COLOR_0"])  # bytes of sRGB there, fractions of light in glTF
    if not parts:
        raise refused("no triangles")
    ends = np.array([[function(named["POSITION"], axis=(0, 1)) for function in (np.min, np.max)] for named, _ in parts])
    centre = (ends[:, 0].min(axis=0) + ends[:, 1].max(axis=0)) / 2
    farthest = np.max([np.linalg.norm(named["POSITION"] - centre, axis=-1).max() for named, _ in parts])
    if not 0 < farthest < np.inf:
        raise refused("no extent, or positions that are no numbers")
    up = Z_UP if path.suffix.lower() in (".ply", ".stl") else Y_UP
    corners = np.concatenate([_packed(named, centre, RADIUS / farthest, up) for named, _ in parts])
    counts, bare = [len(named["POSITION"]) for named, _ in parts], len(gltf.tree.get("materials", []))
    numbers = [bare + ("COLOR_0" in named) if index is None else index for named, index in parts]
    asset = Asset(corners, np.repeat(numbers, counts), [*gltf.tree.get("materials", []), *BARE], [])
    for index, material in enumerate(asset.materials):
        asset.textures.append(_textures(gltf, material, corners[asset.material_of == index], texels_per_unit))
        if "normalTexture" in asset.textures[index]:
            chosen = asset.material_of == index
            corners[chosen, :, TANGENTS] = _tangents(corners[chosen], asset.textures[index]["normalTexture"])[:, None]
    _cut(asset)
    return asset


def _packed(named: dict, centre: np.ndarray, scale: float, up: np.ndarray) -> np.ndarray:
    """T 3 26. A face with a normal of no length gets its own, flat one; fronts are where the normals point."""
    points = (named["POSITION"] - centre) @ up * scale
    flat = gltf_material.unit(np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]))[:, None]
    normals = gltf_material.unit(named["NORMAL"] @ up) if "NORMAL" in named else np.zeros_like(points)
    colours = named.get("COLOR_0", np.ones((1, 1, 4)))
    corners = np.zeros((len(points), 3, 26), np.float32)
    corners[..., POSITION], corners[..., COLOUR] = points, 1
    corners[..., NORMAL] = np.where((normals**2).sum(axis=-1).min(axis=1)[:, None, None] > 0.5, normals, flat)
    corners[..., 6:8], corners[..., 8:10] = (np.nan_to_num(named.get(f"TEXCOORD_{number}", 0)) for number in (0, 1))
    corners[..., COLOUR.start : COLOUR.start + colours.shape[-1]] = colours
    inward = (flat[:, 0] * corners[..., NORMAL].sum(axis=1)).sum(axis=1) < 0
    corners[inward] = corners[inward, ::-1]
    return corners


def _textures(gltf: Gltf, material: dict, corners: np.ndarray, texels_per_unit: float) -> dict[str, Texture]:
    found, sides = {}, np.diff(corners[..., POSITION], axis=1)
    area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1).sum()
    for name, info in texture_infos(material):
        if name == "occlusionTexture" or not area:
            continue
        with reading(f"the texture of a {name}"):
            image, sampler = _image(gltf, gltf.tree["textures"][info["index"]])
        texture = found[name] = Texture(np.asarray(image), info, sampler)
        texels = (
            np.abs(np.linalg.det(np.diff(texture.place(corners[..., UV]), axis=1))).sum() * image.width * image.height
        )
        shrink = np.sqrt(texels / area) / texels_per_unit
        if shrink > 1:
            size = [max(1, round(length / shrink)) for length in image.size]
            # Pillow averages colours by their alpha, which is right only where that means coverage.
            covers = name in ("baseColorTexture", "diffuseTexture") and material.get("alphaMode", "OPAQUE") != "OPAQUE"
            pieces = [piece.resize(size, Image.BOX) for piece in ([image] if covers else image.split())]
            texture.texels = np.asarray(pieces[0] if covers else Image.merge("RGBA", pieces))
            texture.sampler = {key: value for key, value in sampler.items() if value != NEAREST}
    return found


def _image(gltf: Gltf, texture: dict) -> tuple[Image.Image, dict]:
    """And its sampler."""
    source = texture.get("extensions", {}).get("EXT_texture_webp", texture)["source"]
    image = Image.open(io.BytesIO(gltf.image(source)))
    if image.mode.startswith("I"):
        raise refused("not drawn: a texture of 16-bit grey")
    return image.convert("RGBA"), gltf.tree["samplers"][texture["sampler"]] if "sampler" in texture else {}


def _tangents(corners: np.ndarray, texture: Texture) -> np.ndarray:
    """T 6: where the texture's u grows, and where its v falls, for a normal map's y points up."""
    (u1, v1), (u2, v2) = np.diff(texture.place(corners[..., UV]), axis=1).transpose(1, 2, 0)[..., None]
    one, two = np.diff(corners[..., POSITION], axis=1).transpose(1, 0, 2)
    return np.concatenate([one * v2 - two * v1, one * u2 - two * u1], axis=1) * np.sign(u1 * v2 - u2 * v1)


def _cut(asset: Asset) -> None:
    """Triangles with an edge over LONGEST_EDGE are halved across it, again and again."""
    while len(asset.corners) < MANY:
        points = asset.corners[..., POSITION]
        edges = np.linalg.norm(points - np.roll(points, -1, axis=1), axis=-1)
        long = edges.max(axis=1) > LONGEST_EDGE
        if not long.any():
            break
        order = (edges[long].argmax(axis=1)[:, None] + np.arange(3)) % 3
        one, two, three = np.take_along_axis(asset.corners[long], order[..., None], axis=1).transpose(1, 0, 2)
        halves = [np.stack([one, (one + two) / 2, three], axis=1), np.stack([(one + two) / 2, two, three], axis=1)]
        asset.corners = np.concatenate([asset.corners[~long], *halves])
        asset.material_of = np.concatenate([asset.material_of[index] for index in (~long, long, long)])
