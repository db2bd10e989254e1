"""What the quick renderer draws: an asset as triangles in the world with glTF materials, and a material's answer at a hit.

Raises ValueError for what is damaged and for what it cannot draw right. Every face is drawn from both sides, as Blender does; the
occlusion texture is not needed, the file's tangents are not used (a normal map's come from the texture coordinates).
"""

from dataclasses import dataclass

import numpy as np

# Columns of what stands at a corner: two sets of texture coordinates, the directions in which a normal map's x and y grow, and
# the light that arrives over the light that would without the object (bake.py), in front of the face and behind it.
POSITION, NORMAL, UV, COLOUR, TANGENTS, OPENNESS = map(slice, (0, 3, 6, 10, 14, 20), (3, 6, 10, 14, 20, 26))
REPEAT, CLAMP = 10497, 33071


def linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-20)


@dataclass
class Texture:
    texels: np.ndarray  # h w 4, uint8
    info: dict  # glTF's textureInfo: its set of coordinates, their transform, the normal map's scale
    wrap: tuple[int, int]
    nearest: bool

    def place(self, uv: np.ndarray) -> np.ndarray:
        """... 4 (two sets) -> ... 2, transformed."""
        transform = self.info.get("extensions", {}).get("KHR_texture_transform", {})
        first = 2 * transform.get("texCoord", self.info.get("texCoord", 0))
        cos, sin = np.cos(transform.get("rotation", 0)), np.sin(transform.get("rotation", 0))
        turn = np.array([[cos, sin], [-sin, cos]]) * transform.get(
            "scale", (1, 1)
        )  # counter-clockwise as v points down
        return uv[..., first : first + 2] @ turn.T + transform.get("offset", (0, 0))

    def sample(self, uv: np.ndarray) -> np.ndarray:
        """N 4 texture coordinates -> N 4 values in 0 to 1, bilinear."""
        size = np.array(self.texels.shape[1::-1])
        spot = self.place(uv) * size
        low = np.floor(spot if self.nearest else spot - 0.5).astype(np.int64)
        part = np.zeros_like(spot) if self.nearest else spot - 0.5 - low
        (x0, y0), (x1, y1) = ([_wrapped(low[:, i] + step, size[i], self.wrap[i]) for i in (0, 1)] for step in (0, 1))
        x, y = np.float32(part[:, :1]), np.float32(part[:, 1:])
        upper = self.texels[y0, x0] * (1 - x) + self.texels[y0, x1] * x
        lower = self.texels[y1, x0] * (1 - x) + self.texels[y1, x1] * x
        return (upper * (1 - y) + lower * y) / np.float32(255)


def _wrapped(index: np.ndarray, size: int, mode: int) -> np.ndarray:
    if mode == CLAMP:
        return np.clip(index, 0, size - 1)
    if mode == REPEAT:
        return index % size
    return np.minimum(index % (2 * size), 2 * size - 1 - index % (2 * size))


@dataclass
class Asset:
    corners: np.ndarray  # T 3 26, see the columns above
    material_of: np.ndarray  # T
    materials: list[dict]
    textures: list[dict[str, Texture]]  # of each material, by the textures' names in it

    def surface(self, at: np.ndarray, material_of: np.ndarray) -> dict[str, np.ndarray]:
        """N 26 -> what the light needs to know of N spots, in linear colours. `glow` is what they send out themselves."""
        channels = {"diffuse": 3, "specular": 3, "glow": 3, "normal": 3, "roughness": 1, "alpha": 1}
        found = {name: np.empty((len(at), width), np.float32) for name, width in channels.items()}
        for index in np.unique(material_of):
            chosen = material_of == index
            for name, values in _answer(self.materials[index], self.textures[index], at[chosen]).items():
                found[name][chosen] = values
        return found


def _answer(material: dict, textures: dict[str, Texture], at: np.ndarray) -> dict[str, np.ndarray]:
    """glTF 2.0, appendix B, and the extensions in DRAWN."""

    def texture(name: str) -> np.ndarray:
        return textures[name].sample(at[:, UV]) if name in textures else np.ones((1, 4), np.float32)

    extensions, pbr = material.get("extensions", {}), material.get("pbrMetallicRoughness", {})
    gloss, shine = (extensions.get(f"KHR_materials_{name}") for name in ("pbrSpecularGlossiness", "specular"))
    kind, owner = ("diffuse", gloss) if gloss is not None else ("baseColor", pbr)
    paint = texture(f"{kind}Texture")
    paint = (
        np.concatenate([linear(paint[:, :3]), paint[:, 3:]], axis=1)
        * owner.get(f"{kind}Factor", (1, 1, 1, 1))
        * at[:, COLOUR]
    )
    colour, alpha, shine = paint[:, :3], paint[:, 3:], shine or {}
    if gloss is not None:
        values = texture("specularGlossinessTexture")
        specular = linear(values[:, :3]) * gloss.get("specularFactor", (1, 1, 1))
        roughness = 1 - gloss.get("glossinessFactor", 1) * values[:, 3:]
        diffuse = colour * (1 - specular.max(axis=1, keepdims=True))
    else:
        values, ior = texture("metallicRoughnessTexture"), extensions.get("KHR_materials_ior", {}).get("ior", 1.5)
        metallic, roughness = (
            pbr.get("metallicFactor", 1) * values[:, 2:3],
            pbr.get("roughnessFactor", 1) * values[:, 1:2],
        )
        tint = linear(texture("specularColorTexture")[:, :3]) * shine.get("specularColorFactor", (1, 1, 1))
        strength = shine.get("specularFactor", 1) * texture("specularTexture")[:, 3:]
        specular = np.minimum(tint * ((ior - 1) / (ior + 1)) ** 2, 1) * strength * (1 - metallic) + colour * metallic
        diffuse = colour * (1 - metallic)
    strength = extensions.get("KHR_materials_emissive_strength", {}).get("emissiveStrength", 1)
    glow = linear(texture("emissiveTexture")[:, :3]) * material.get("emissiveFactor", (0, 0, 0)) * strength
    mode = material.get("alphaMode", "OPAQUE")
    if mode != "BLEND":
        alpha = (alpha >= material.get("alphaCutoff", 0.5)) | (mode == "OPAQUE")
    if "KHR_materials_unlit" in extensions:
        diffuse, specular, glow = 0, 0, colour
    normal = _normal(textures.get("normalTexture"), at)
    return {
        "diffuse": diffuse,
        "specular": specular,
        "roughness": roughness,
        "glow": glow,
        "alpha": alpha,
        "normal": normal,
    }


def _normal(texture: Texture | None, at: np.ndarray) -> np.ndarray:
    normal = unit(at[:, NORMAL])
    if texture is None:
        return normal
    x, y, z = (texture.sample(at[:, UV])[:, :3] * 2 - 1).T[:, :, None]
    scale = texture.info.get("scale", 1)
    sides = (
        unit(side - normal * (side * normal).sum(1, keepdims=True)) for side in np.split(at[:, TANGENTS], 2, axis=1)
    )
    return unit(sum(side * step * scale for side, step in zip(sides, (x, y))) + normal * z)
