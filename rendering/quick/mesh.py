"""An asset as a mesh: triangles in the world, with the vertex attributes and the materials that shading needs.

Every face is drawn from both sides. Occlusion textures and the file's tangents are not used. What cannot be drawn right is a
Failure.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from rendering.camera import RADIUS
from rendering.coincident import ON_EACH_OTHER, corner_hashes, first_with_same_corners
from rendering.extent import Placement, centre_and_farthest, place
from rendering.gltf import Gltf, reading, refused
from rendering.gltf_demands import DRAWN_BY_BLENDER, demands, texture_infos
from rendering.quick import draco, ktx2
from rendering.quick import material as gltf_material
from rendering.quick.conversion import converted
from rendering.quick.material import NEAREST, Surface, Texture, linear
from rendering.quick.primitives import primitives
from utils.images import IMAGE_FORMATS

DRAWN = gltf_material.DRAWN | {"KHR_mesh_quantization", "EXT_texture_webp", "skin", "morph targets"}
PACKAGES = {draco: "DracoPy", ktx2: "alktx2"}  # optional, and what they decode is drawn then
# Where an asset's x, y and z go, by the axis that points up.
TO_Z_UP = {"y": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]), "z": np.eye(3)}
# The look of a surface without a material, first without and then with vertex colours.
PLAIN = {"metallicFactor": 0, "roughnessFactor": 0.5}
NO_MATERIAL = [
    {"pbrMetallicRoughness": PLAIN | {"baseColorFactor": [0.8, 0.8, 0.8, 1]}},
    {"pbrMetallicRoughness": PLAIN},
]
# Triangles are subdivided until no edge is longer, unless there are this many of them.
LONGEST_EDGE = 0.03
MANY_TRIANGLES = 150_000


@dataclass
class Attributes:
    """Vertex attributes: at the corners of triangles (the leading axes are T 3), or at points of the surface (N)."""

    position: np.ndarray  # ... 3
    normal: np.ndarray  # ... 3
    uv: np.ndarray  # ... 4: two sets of texture coordinates
    colour: np.ndarray  # ... 4: linear, with alpha
    tangents: np.ndarray  # ... 6: where the x and the y of a normal map point
    # ... 6: the light that arrives over the light that would arrive without the mesh, r g b before the face and r g b behind it.
    visibility: np.ndarray

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Attributes":
        return Attributes(*(function(getattr(self, field.name)) for field in fields(self)))

    def __getitem__(self, index) -> "Attributes":
        return self.map(lambda values: values[index])

    @classmethod
    def concatenate(cls, parts: Sequence["Attributes"]) -> "Attributes":
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass
class Mesh:
    corners: Attributes  # T 3
    material_of: np.ndarray  # T
    materials: list[dict]
    textures: list[dict[str, Texture]]  # of each material, by their names in it
    placement: Placement

    @property
    def size(self) -> int:
        """The number of triangles."""
        return len(self.material_of)

    def surface(self, points: Attributes, material_of: np.ndarray) -> Surface:
        """Evaluate the materials at N points."""
        found = Surface.empty(len(material_of))
        for index in np.unique(material_of):
            chosen = np.nonzero(material_of == index)[0]
            attributes = [values[chosen] for values in (points.uv, points.colour, points.normal, points.tangents)]
            found.fill(chosen, gltf_material.evaluate(self.materials[index], self.textures[index], *attributes))
        return found


def load_mesh(path: Path, up_axis: str, texels_per_unit: float) -> Mesh:
    """Read an asset, turned to z up, centred and scaled to RADIUS. Raises Failure.

    A texture with more than `texels_per_unit` on a unit of the surface is brought down to it, or it would flicker.
    """
    gltf, parts = _read_parts(path)
    up = TO_Z_UP[up_axis]
    positions = np.concatenate([vertices["POSITION"].reshape(-1, 3) for vertices, _ in parts])
    centre, farthest = centre_and_farthest(positions)
    if not 0 < farthest < np.inf:
        raise refused("no extent, or positions that are no numbers")
    materials = gltf.tree.get("materials", [])
    corners = Attributes.concatenate([_attributes(part, centre, RADIUS / farthest, up) for part, _ in parts])
    numbers = [len(materials) + ("COLOR_0" in part) if index is None else index for part, index in parts]
    material_of = np.repeat(numbers, [len(part["POSITION"]) for part, _ in parts])
    if _has_painted_doubles(positions, material_of):
        raise refused(ON_EACH_OTHER)
    mesh = Mesh(corners, material_of, [*materials, *NO_MATERIAL], [], place(positions @ up))
    for index, material in enumerate(mesh.materials):
        chosen = material_of == index
        mesh.textures.append(_textures(gltf, material, corners[chosen], texels_per_unit))
        if "normalTexture" in mesh.textures[index]:
            corners.tangents[chosen] = _tangents(corners[chosen], mesh.textures[index]["normalTexture"])[:, None]
    _subdivide(mesh)
    return mesh


def _has_painted_doubles(positions: np.ndarray, material_of: np.ndarray) -> bool:
    """Say whether some of T triangles (3T 3) with the same corners differ in their material (T): each ray would hit another one."""
    above = positions - positions.min(axis=0)
    hashes = corner_hashes(above, above.max()).reshape(-1, 3)
    pinched = (hashes == np.roll(hashes, 1, axis=1)).any(axis=1)
    first = first_with_same_corners(np.where(pinched, np.uint64(0), hashes.sum(axis=1)))
    return bool((material_of[first] != material_of).any())


def _read_parts(path: Path) -> tuple[Gltf, list[tuple[dict, int | None]]]:
    """Return the file as glTF and its primitives that have triangles: (T 3 C by attribute name, the material's number)."""
    foreign = path.suffix.lower() not in (".glb", ".gltf")
    gltf = converted(path) if foreign else Gltf(path.read_bytes(), path.parent)
    with reading("its JSON"):
        unable = demands(gltf.tree) - DRAWN - {decoder.EXTENSION for decoder in PACKAGES if decoder.is_installed()}
    if unable:
        raise refused(f"not drawn: {', '.join(sorted(unable))}{_remedy(unable)}")
    parts = [(vertices, index) for vertices, index in primitives(gltf) if len(vertices["POSITION"])]
    for vertices in (vertices for vertices, _ in parts if foreign and "COLOR_0" in vertices):
        vertices["COLOR_0"] = linear(vertices["COLOR_0"])  # bytes of sRGB there, linear in glTF
    if not parts:
        raise refused("no triangles")
    return gltf, parts


def _remedy(unable: set[str]) -> str:
    """Say what draws a file that this renderer does not, if it is known."""
    wanted = {decoder.EXTENSION: package for decoder, package in PACKAGES.items() if decoder.EXTENSION in unable}
    ways = [f"`pip install {' '.join(wanted.values())}`"] if unable == wanted.keys() else []
    ways += ["render.renderer=blender"] if unable <= DRAWN_BY_BLENDER else []
    return f"; {' or '.join(ways)} draws it" if ways else ""


def _attributes(vertices: dict, centre: np.ndarray, scale: float, up: np.ndarray) -> Attributes:
    """Bring a primitive's vertices (T 3 C) to the world. A face whose normals have no length gets its own, flat one.

    Corners are ordered so that the front of a face is where its normals point.
    """
    points = (vertices["POSITION"] - centre) @ up * scale
    flat = gltf_material.unit(np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]))[:, None]
    normals = gltf_material.unit(vertices["NORMAL"] @ up) if "NORMAL" in vertices else np.zeros_like(points)
    colours = vertices.get("COLOR_0", np.ones((1, 1, 4)))
    corners = Attributes(*(np.zeros((len(points), 3, width), np.float32) for width in (3, 3, 4, 4, 6, 6)))
    corners.position[:] = points
    corners.normal[:] = np.where((normals**2).sum(axis=-1).min(axis=1)[:, None, None] > 0.5, normals, flat)
    corners.uv[..., :2] = np.nan_to_num(vertices.get("TEXCOORD_0", 0))
    corners.uv[..., 2:] = np.nan_to_num(vertices.get("TEXCOORD_1", 0))
    corners.colour[:] = 1
    corners.colour[..., : colours.shape[-1]] = colours
    inward = (flat[:, 0] * corners.normal.sum(axis=1)).sum(axis=1) < 0
    return corners.map(lambda values: np.where(inward[:, None, None], values[:, ::-1], values))


def _textures(gltf: Gltf, material: dict, corners: Attributes, texels_per_unit: float) -> dict[str, Texture]:
    """Read a material's textures, by name, no finer than its triangles need them."""
    sides = np.diff(corners.position, axis=1)
    area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1).sum()
    found = {}
    for name, info in texture_infos(material):
        if name == "occlusionTexture" or not area:
            continue
        with reading(f"the texture of a {name}"):
            image, sampler = _image(gltf, gltf.tree["textures"][info["index"]])
        texture = found[name] = Texture(np.asarray(image), info, sampler)
        triangles = np.diff(texture.transform_uv(corners.uv), axis=1)
        texels = np.abs(np.linalg.det(triangles)).sum() * image.width * image.height
        shrink = np.sqrt(texels / area) / texels_per_unit
        if shrink > 1:
            # Pillow averages colours weighted by alpha, which is right only where alpha means coverage.
            covers = name in ("baseColorTexture", "diffuseTexture") and material.get("alphaMode", "OPAQUE") != "OPAQUE"
            texture.texels = _shrunk(image, shrink, covers)
            texture.sampler = {key: value for key, value in sampler.items() if value != NEAREST}
    return found


def _shrunk(image: Image.Image, factor: float, weighted_by_alpha: bool) -> np.ndarray:
    """Return the image by `factor` smaller, h w 4."""
    size = [max(1, round(length / factor)) for length in image.size]
    if weighted_by_alpha:
        return np.asarray(image.resize(size, Image.BOX))
    return np.asarray(Image.merge("RGBA", [channel.resize(size, Image.BOX) for channel in image.split()]))


def _image(gltf: Gltf, texture: dict) -> tuple[Image.Image, dict]:
    """Return a texture's image as RGBA, and its sampler."""
    extensions = texture.get("extensions", {})
    if ktx2.EXTENSION in extensions:
        image = ktx2.decode(gltf.image(extensions[ktx2.EXTENSION]["source"]))
    else:
        source = extensions.get("EXT_texture_webp", texture)["source"]
        image = Image.open(io.BytesIO(gltf.image(source)), formats=IMAGE_FORMATS)
    if image.mode.startswith("I"):
        raise refused("not drawn: a texture of 16-bit grey")
    return image.convert("RGBA"), gltf.tree["samplers"][texture["sampler"]] if "sampler" in texture else {}


def _tangents(corners: Attributes, texture: Texture) -> np.ndarray:
    """Return where the texture's u grows, and where its v falls, since the y of a normal map points up (T 6)."""
    (u1, v1), (u2, v2) = np.diff(texture.transform_uv(corners.uv), axis=1).transpose(1, 2, 0)[..., None]
    one, two = np.diff(corners.position, axis=1).transpose(1, 0, 2)
    return np.concatenate([one * v2 - two * v1, one * u2 - two * u1], axis=1) * np.sign(u1 * v2 - u2 * v1)


def _subdivide(mesh: Mesh) -> None:
    """Halve triangles across every edge that is longer than LONGEST_EDGE, again and again, for light is baked per triangle."""
    while mesh.size < MANY_TRIANGLES:
        points = mesh.corners.position
        edges = np.linalg.norm(points - np.roll(points, -1, axis=1), axis=-1)
        long = edges.max(axis=1) > LONGEST_EDGE
        if not long.any():
            break
        order = (edges[long].argmax(axis=1)[:, None] + np.arange(3)) % 3

        def halved(values: np.ndarray, long: np.ndarray = long, order: np.ndarray = order) -> np.ndarray:
            one, two, three = np.take_along_axis(values[long], order[..., None], axis=1).transpose(1, 0, 2)
            middle = (one + two) / 2
            halves = [np.stack([one, middle, three], axis=1), np.stack([middle, two, three], axis=1)]
            return np.concatenate([values[~long], *halves])

        mesh.corners = mesh.corners.map(halved)
        mesh.material_of = np.concatenate([mesh.material_of[index] for index in (~long, long, long)])
