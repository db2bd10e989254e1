"""glTF's metallic-roughness material at points of a surface (glTF 2.0, appendix B), with the extensions in DRAWN. Numpy only."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from rendering.gltf_demands import coordinate_set, texture_transform

EXTENSIONS = ("emissive_strength", "ior", "pbrSpecularGlossiness", "specular", "unlit")
DRAWN = {f"KHR_materials_{name}" for name in EXTENSIONS} | {"KHR_texture_transform", "vertex colours"}
DRAWN |= {"alpha OPAQUE", "alpha MASK", "alpha BLEND"}
SRGB_TEXTURES = [
    f"{name}Texture" for name in ("baseColor", "diffuse", "emissive", "specularColor", "specularGlossiness")
]
REPEAT = 10497
CLAMP = 33071
NEAREST = 9728


def linear(colour: np.ndarray) -> np.ndarray:
    """Convert sRGB to linear."""
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def srgb(colour: np.ndarray) -> np.ndarray:
    """Convert linear to sRGB."""
    return np.where(colour <= 0.0031308, colour * 12.92, 1.055 * colour ** (1 / 2.4) - 0.055)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def dot(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the products of N 3 and N 3, N 1."""
    return (one * two).sum(axis=-1, keepdims=True)


@dataclass
class Texture:
    texels: np.ndarray  # h w 4, uint8
    info: dict  # glTF's textureInfo
    sampler: dict  # glTF's sampler

    def transform_uv(self, uv: np.ndarray) -> np.ndarray:
        """Return the texture's own set of both (... 4), after KHR_texture_transform (... 2)."""
        transform = texture_transform(self.info)
        first = 2 * coordinate_set(self.info)
        angle = transform.get("rotation", 0)
        cos, sin = np.cos(angle), np.sin(angle)
        # This turns counter-clockwise, since v points down.
        rotation = np.array([[cos, sin], [-sin, cos]]) * transform.get("scale", (1, 1))
        return uv[..., first : first + 2] @ rotation.T + transform.get("offset", (0, 0))

    def sample(self, uv: np.ndarray) -> np.ndarray:
        """Look up N 4 texture coordinates: N 4 in 0 to 1, bilinear, or the nearest texel where the sampler says so."""
        size = np.array(self.texels.shape[1::-1])
        nearest = self.sampler.get("magFilter") == NEAREST
        texel = self.transform_uv(uv) * size - 0.5
        low = np.round(texel) if nearest else np.floor(texel)
        x, y = np.float32(texel - low).T[..., None] * np.float32(not nearest)
        (x0, y0), (x1, y1) = (self._wrap(low.astype(np.int64) + step, size) for step in (0, 1))
        upper = self.texels[y0, x0] * (1 - x) + self.texels[y0, x1] * x
        lower = self.texels[y1, x0] * (1 - x) + self.texels[y1, x1] * x
        return (upper * (1 - y) + lower * y) / np.float32(255)

    def _wrap(self, texel: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Bring N 2 texels into the texture, and return their columns and rows (2 N)."""
        there_and_back = texel % (2 * size)
        mirrored = np.minimum(there_and_back, 2 * size - 1 - there_and_back)
        wrapped = {REPEAT: texel % size, CLAMP: np.clip(texel, 0, size - 1)}
        modes = (self.sampler.get(name, REPEAT) for name in ("wrapS", "wrapT"))
        return np.stack([wrapped.get(mode, mirrored)[:, axis] for axis, mode in enumerate(modes)])


@dataclass
class Surface:
    """What shading needs to know of N points of a surface. Colours are linear."""

    diffuse: np.ndarray  # N 3: albedo of the diffuse part
    f0: np.ndarray  # N 3: specular reflectance at normal incidence
    emission: np.ndarray  # N 3: radiance
    normal: np.ndarray  # N 3: unit, the normal map applied
    roughness: np.ndarray  # N 1: perceptual
    alpha: np.ndarray  # N 1

    @classmethod
    def empty(cls, count: int) -> "Surface":
        return cls(*(np.empty((count, width), np.float32) for width in (3, 3, 3, 3, 1, 1)))

    def fill(self, points: np.ndarray, part: "Surface") -> None:
        """Write `part`, whose values may stand for all of its points at once, to these points."""
        for field in fields(self):
            getattr(self, field.name)[points] = getattr(part, field.name)


def evaluate(material: dict, textures: dict[str, Texture], uv, colour, normal, tangents) -> Surface:
    """Evaluate a glTF material at N points.

    uv N 4: two sets; colour N 4: vertex colours; normal N 3; tangents N 6: where the normal map's x and y point. A value of
    the returned Surface is 1 C where it is the same at all points.
    """

    def texture(name: str) -> np.ndarray:
        values = textures[name].sample(uv) if name in textures else np.ones((1, 4), np.float32)
        return np.append(linear(values[:, :3]), values[:, 3:], axis=1) if name in SRGB_TEXTURES else values

    extensions = material.get("extensions", {})
    mode = material.get("alphaMode", "OPAQUE")
    if "KHR_materials_pbrSpecularGlossiness" in extensions:
        reflectance = _specular_glossiness(extensions["KHR_materials_pbrSpecularGlossiness"], texture, colour)
    else:
        reflectance = _metallic_roughness(material.get("pbrMetallicRoughness", {}), extensions, texture, colour)
    base_colour, diffuse, f0, roughness = reflectance
    strength = extensions.get("KHR_materials_emissive_strength", {}).get("emissiveStrength", 1)
    emission = texture("emissiveTexture")[:, :3] * material.get("emissiveFactor", (0, 0, 0)) * strength
    if "KHR_materials_unlit" in extensions:
        diffuse = np.zeros((1, 3))
        f0 = np.zeros((1, 3))
        emission = base_colour[:, :3]
    alpha = base_colour[:, 3:] if mode == "BLEND" else np.ones((1, 1))
    if mode == "MASK":
        alpha = base_colour[:, 3:] >= material.get("alphaCutoff", 0.5)
    normal = _apply_normal_map(unit(normal), tangents, textures.get("normalTexture"), uv)
    return Surface(diffuse, f0, emission, normal, roughness, alpha)


def _metallic_roughness(pbr: dict, extensions: dict, texture: Callable, colour: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return base colour and alpha (N 4), diffuse albedo, F0 and roughness."""
    values = texture("metallicRoughnessTexture")
    base_colour = texture("baseColorTexture") * pbr.get("baseColorFactor", (1, 1, 1, 1)) * colour
    roughness = values[:, 1:2] * pbr.get("roughnessFactor", 1)
    metallic = values[:, 2:3] * pbr.get("metallicFactor", 1)
    diffuse = base_colour[:, :3] * (1 - metallic)
    f0 = _dielectric_f0(extensions, texture) * (1 - metallic) + base_colour[:, :3] * metallic
    return base_colour, diffuse, f0, roughness


def _specular_glossiness(gloss: dict, texture: Callable, colour: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return diffuse colour and alpha (N 4), diffuse albedo, F0 and roughness, by KHR_materials_pbrSpecularGlossiness."""
    base_colour = texture("diffuseTexture") * gloss.get("diffuseFactor", (1, 1, 1, 1)) * colour
    values = texture("specularGlossinessTexture")
    f0 = values[:, :3] * gloss.get("specularFactor", (1, 1, 1))
    roughness = 1 - values[:, 3:] * gloss.get("glossinessFactor", 1)
    diffuse = base_colour[:, :3] * (1 - f0.max(axis=1, keepdims=True))
    return base_colour, diffuse, f0, roughness


def _dielectric_f0(extensions: dict, texture: Callable) -> np.ndarray:
    """Return F0 of what is no metal, by KHR_materials_specular and KHR_materials_ior."""
    specular = extensions.get("KHR_materials_specular", {})
    ior = extensions.get("KHR_materials_ior", {}).get("ior", 1.5)
    tint = texture("specularColorTexture")[:, :3] * specular.get("specularColorFactor", (1, 1, 1))
    weight = texture("specularTexture")[:, 3:] * specular.get("specularFactor", 1)
    return np.minimum(tint * ((ior - 1) / (ior + 1)) ** 2, 1) * weight


def _apply_normal_map(normal: np.ndarray, tangents: np.ndarray, texture: Texture | None, uv: np.ndarray) -> np.ndarray:
    if texture is None:
        return normal
    x, y, z = (texture.sample(uv)[:, :3] * 2 - 1).T[..., None]
    tangent, bitangent = (unit(side - normal * dot(side, normal)) for side in np.split(tangents, 2, axis=1))
    return unit((tangent * x + bitangent * y) * texture.info.get("scale", 1) + normal * z)


def environment_brdf(f0: np.ndarray, roughness: np.ndarray, cos_view: np.ndarray) -> np.ndarray:
    """Return the part of an even light that is reflected specularly (N 3). `cos_view` is the cosine between normal and view.

    This is Karis' fit (Physically based shading on mobile, 2014), with the energy that single scattering loses put back.
    """
    x, y, z, w = (roughness * a + b for a, b in ((-1, 1), (-0.0275, 0.0425), (-0.572, 1.04), (0.022, -0.04)))
    grazing = np.minimum(x * x, np.exp2(-9.28 * cos_view)) * x + y
    scale = -1.04 * grazing + z
    bias = (1.04 * grazing + w) * np.clip(50 * f0.max(axis=1, keepdims=True), 0, 1)
    return (f0 * scale + bias) * (1 + f0 * (1 / np.maximum(scale + bias, 1e-3) - 1))


def dominant_direction(normal: np.ndarray, mirrored: np.ndarray, roughness: np.ndarray) -> np.ndarray:
    """Return the middle of the specular lobe (N 3), which is the nearer to the normal the rougher the surface.

    From Lagarde and de Rousiers 2014, 4.9.3.
    """
    return unit(normal + (mirrored - normal) * (1 - roughness) * (np.sqrt(1 - roughness) + roughness))
