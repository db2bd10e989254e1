"""What a glTF material is at a spot of a surface: glTF 2.0, appendix B, and the extensions in DRAWN. Pure numpy."""

from dataclasses import dataclass

import numpy as np

from rendering.gltf import coordinate_set, texture_transform

EXTENSIONS = ("emissive_strength", "ior", "pbrSpecularGlossiness", "specular", "unlit")
DRAWN = {f"KHR_materials_{name}" for name in EXTENSIONS} | {"KHR_texture_transform", "vertex colours"}
DRAWN |= {"alpha OPAQUE", "alpha MASK", "alpha BLEND"}
SRGB_TEXTURES = [
    f"{name}Texture" for name in ("baseColor", "diffuse", "emissive", "specularColor", "specularGlossiness")
]
REPEAT, CLAMP, NEAREST = 10497, 33071, 9728


def linear(colour: np.ndarray) -> np.ndarray:
    """From sRGB."""
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def srgb(colour: np.ndarray) -> np.ndarray:
    """The inverse of `linear`."""
    return np.where(colour <= 0.0031308, colour * 12.92, 1.055 * colour ** (1 / 2.4) - 0.055)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def dot(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """N 3, N 3 -> N 1."""
    return (one * two).sum(axis=-1, keepdims=True)


@dataclass
class Texture:
    texels: np.ndarray  # h w 4, uint8
    info: dict  # glTF's textureInfo
    sampler: dict

    def place(self, uv: np.ndarray) -> np.ndarray:
        """... 4, two sets of coordinates -> ... 2: its set, transformed."""
        transform, first = texture_transform(self.info), 2 * coordinate_set(self.info)
        cos, sin = np.cos(transform.get("rotation", 0)), np.sin(transform.get("rotation", 0))
        turn = np.array([[cos, sin], [-sin, cos]]) * transform.get(
            "scale", (1, 1)
        )  # counter-clockwise, as v points down
        return uv[..., first : first + 2] @ turn.T + transform.get("offset", (0, 0))

    def sample(self, uv: np.ndarray) -> np.ndarray:
        """N 4 -> N 4 in 0 to 1, bilinear or nearest."""
        size, nearest = np.array(self.texels.shape[1::-1]), self.sampler.get("magFilter") == NEAREST
        spot = self.place(uv) * size - 0.5
        low = np.round(spot) if nearest else np.floor(spot)
        x, y = np.float32(spot - low).T[..., None] * np.float32(not nearest)
        (x0, y0), (x1, y1) = (self._wrapped(low.astype(np.int64) + step, size) for step in (0, 1))
        upper = self.texels[y0, x0] * (1 - x) + self.texels[y0, x1] * x
        lower = self.texels[y1, x0] * (1 - x) + self.texels[y1, x1] * x
        return (upper * (1 - y) + lower * y) / np.float32(255)

    def _wrapped(self, texel: np.ndarray, size: np.ndarray) -> np.ndarray:
        """N 2 -> 2 N, within the texture."""
        again, back = texel % size, texel % (2 * size)
        ways = {REPEAT: again, CLAMP: np.clip(texel, 0, size - 1)}
        mirrored = np.minimum(back, 2 * size - 1 - back)
        modes = (self.sampler.get(name, REPEAT) for name in ("wrapS", "wrapT"))
        return np.stack([ways.get(mode, mirrored)[:, axis] for axis, mode in enumerate(modes)])


def answer(material: dict, textures: dict[str, Texture], uv, colour, normal, tangents) -> np.ndarray:
    """N spots (uv 4, colour 4, normal 3, tangents 6: where a normal map's x and y point) -> N 14: diffuse colour, specular
    colour at normal incidence, glow (what it sends out itself), normal, roughness, alpha. Linear colours."""

    def texture(name: str) -> np.ndarray:
        values = textures[name].sample(uv) if name in textures else np.ones((1, 4), np.float32)
        return np.append(linear(values[:, :3]), values[:, 3:], axis=1) if name in SRGB_TEXTURES else values

    extensions, mode = material.get("extensions", {}), material.get("alphaMode", "OPAQUE")
    gloss = extensions.get("KHR_materials_pbrSpecularGlossiness")
    if gloss is not None:
        paint = texture("diffuseTexture") * gloss.get("diffuseFactor", (1, 1, 1, 1)) * colour
        values = texture("specularGlossinessTexture")
        specular = values[:, :3] * gloss.get("specularFactor", (1, 1, 1))
        roughness = 1 - values[:, 3:] * gloss.get("glossinessFactor", 1)
        diffuse = paint[:, :3] * (1 - specular.max(axis=1, keepdims=True))
    else:
        pbr, values = material.get("pbrMetallicRoughness", {}), texture("metallicRoughnessTexture")
        paint = texture("baseColorTexture") * pbr.get("baseColorFactor", (1, 1, 1, 1)) * colour
        roughness, metallic = (
            values[:, 1:2] * pbr.get("roughnessFactor", 1),
            values[:, 2:3] * pbr.get("metallicFactor", 1),
        )
        diffuse = paint[:, :3] * (1 - metallic)
        specular = _dielectric(extensions, texture) * (1 - metallic) + paint[:, :3] * metallic
    strength = extensions.get("KHR_materials_emissive_strength", {}).get("emissiveStrength", 1)
    glow = texture("emissiveTexture")[:, :3] * material.get("emissiveFactor", (0, 0, 0)) * strength
    if "KHR_materials_unlit" in extensions:
        diffuse, specular, glow = np.zeros((1, 3)), np.zeros((1, 3)), paint[:, :3]
    covers = paint[:, 3:] >= material.get("alphaCutoff", 0.5) if mode == "MASK" else np.ones((1, 1))
    parts = (diffuse, specular, glow, _bent(unit(normal), tangents, textures.get("normalTexture"), uv), roughness)
    parts = (*parts, paint[:, 3:] if mode == "BLEND" else covers)
    return np.concatenate([np.broadcast_to(part, (len(uv), part.shape[1])) for part in parts], axis=1, dtype=np.float32)


def _dielectric(extensions: dict, texture) -> np.ndarray:
    shine, ior = extensions.get("KHR_materials_specular", {}), extensions.get("KHR_materials_ior", {}).get("ior", 1.5)
    tint = texture("specularColorTexture")[:, :3] * shine.get("specularColorFactor", (1, 1, 1))
    weight = texture("specularTexture")[:, 3:] * shine.get("specularFactor", 1)
    return np.minimum(tint * ((ior - 1) / (ior + 1)) ** 2, 1) * weight


def _bent(normal: np.ndarray, tangents: np.ndarray, texture: Texture | None, uv: np.ndarray) -> np.ndarray:
    if texture is None:
        return normal
    x, y, z = (texture.sample(uv)[:, :3] * 2 - 1).T[..., None]
    right, up = (unit(side - normal * dot(side, normal)) for side in np.split(tangents, 2, axis=1))
    return unit((right * x + up * y) * texture.info.get("scale", 1) + normal * z)


def mirrored_part(specular: np.ndarray, roughness: np.ndarray, facing: np.ndarray) -> np.ndarray:
    """N 3: the part of an even light that is mirrored, by Karis' fit (Physically based shading on mobile, 2014), with what single
    scattering loses put back."""
    x, y, z, w = (roughness * a + b for a, b in ((-1, 1), (-0.0275, 0.0425), (-0.572, 1.04), (0.022, -0.04)))
    grazing = np.minimum(x * x, np.exp2(-9.28 * facing)) * x + y
    scale, bias = -1.04 * grazing + z, (1.04 * grazing + w) * np.clip(50 * specular.max(axis=1, keepdims=True), 0, 1)
    return (specular * scale + bias) * (1 + specular * (1 / np.maximum(scale + bias, 1e-3) - 1))


def lobe(normal: np.ndarray, mirrored: np.ndarray, roughness: np.ndarray) -> np.ndarray:
    """N 3: the middle of what a surface mirrors: the rougher, the nearer to the normal (Lagarde and de Rousiers 2014, 4.9.3)."""
    return unit(normal + (mirrored - normal) * (1 - roughness) * (np.sqrt(1 - roughness) + roughness))
