"""What a renderer must be able to do to draw a glTF file right, and which of it Blender can."""

from collections.abc import Iterator

import numpy as np

TRIANGLES = 4
STRIP = 5
FAN = 6
# Material extensions that show only where this factor of theirs is not 0, its default.
FACTORS = {
    "KHR_materials_anisotropy": "anisotropyStrength",
    "KHR_materials_clearcoat": "clearcoatFactor",
    "KHR_materials_diffuse_transmission": "diffuseTransmissionFactor",
    "KHR_materials_dispersion": "dispersion",
    "KHR_materials_iridescence": "iridescenceFactor",
    "KHR_materials_sheen": "sheenColorFactor",
    "KHR_materials_transmission": "transmissionFactor",
    "KHR_materials_volume": "thicknessFactor",
}
# Nothing that these describe is drawn: lights are ignored, animations stand at rest, the file's own materials are shown.
UNSEEN = {"KHR_lights_punctual", "KHR_animation_pointer", "KHR_materials_variants", "KHR_xmp", "KHR_xmp_json_ld"}


# The extensions of glTF's materials that Blender's importer reads. Of others it would draw the fallback, and say nothing.
BLENDER_MATERIALS = {
    f"KHR_materials_{name}"
    for name in (
        "anisotropy", "clearcoat", "emissive_strength", "ior", "pbrSpecularGlossiness", "sheen", "specular", "transmission",
        "unlit", "volume",
    )
}  # fmt: skip
# What Blender 4.5 draws of what a simpler renderer refuses.
DRAWN_BY_BLENDER = BLENDER_MATERIALS | {"KHR_draco_mesh_compression"}


def demands(tree: dict) -> set[str]:
    """Return what a renderer must be able to do to draw the file right: extensions by name, and features in words."""
    found = {*tree.get("extensionsUsed", []), *tree.get("extensionsRequired", [])} - FACTORS.keys()
    for kind in ("nodes", "meshes", "textures"):
        found.update(*(thing.get("extensions", ()) for thing in tree.get(kind, [])))
    for primitive in (primitive for mesh in tree.get("meshes", []) for primitive in mesh["primitives"]):
        features = {
            "skin": "JOINTS_0" in primitive["attributes"],
            "morph targets": bool(primitive.get("targets")),
            "vertex colours": "COLOR_0" in primitive["attributes"],
            "points or lines": primitive.get("mode", TRIANGLES) not in (TRIANGLES, STRIP, FAN),
        }
        found |= {name for name, there in features.items() if there} | primitive.get("extensions", {}).keys()
        if "material" in primitive:
            found |= _material_demands(tree["materials"][primitive["material"]])
    return found - UNSEEN


def _material_demands(material: dict) -> set[str]:
    extensions = material.get("extensions", {})
    shown = {name for name, values in extensions.items() if name not in FACTORS or np.any(values.get(FACTORS[name], 0))}
    sets = [coordinate_set(info) for _, info in texture_infos(material)]
    further = {"more than two sets of texture coordinates"} if max(sets, default=0) > 1 else set()
    return shown | further | {f"alpha {material.get('alphaMode', 'OPAQUE')}"}


def texture_infos(node: dict) -> Iterator[tuple[str, dict]]:
    """Yield every (name, textureInfo) of a material and of its extensions."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from [(name, value)] if name.endswith("Texture") else texture_infos(value)


def texture_transform(info: dict) -> dict:
    return info.get("extensions", {}).get("KHR_texture_transform", {})


def coordinate_set(info: dict) -> int:
    return texture_transform(info).get("texCoord", info.get("texCoord", 0))
