"""Meshes under KHR_draco_mesh_compression, which the optional package DracoPy decodes: `pip install DracoPy`.

The decoder believes its input, so it belongs into a process with limits, as the quick renderer's worker is.
"""

import importlib.util

import numpy as np

from rendering.gltf import WIDTHS, Gltf, fractions, refused

EXTENSION = "KHR_draco_mesh_compression"


def is_installed() -> bool:
    return importlib.util.find_spec("DracoPy") is not None


def decode(gltf: Gltf, primitive: dict) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the attributes that are compressed, by name (N C), and the triangles (T 3). Raises Failure.

    An attribute must hold what its accessor announces, by which the file was checked.
    """
    import DracoPy

    packed = primitive["extensions"][EXTENSION]
    try:
        mesh = DracoPy.decode(gltf.view(packed["bufferView"]))
    except DracoPy.FileTypeException:
        raise refused("its Draco data is damaged") from None
    vertices = {}
    for name, unique_id in packed["attributes"].items():
        accessor = gltf.tree["accessors"][primitive["attributes"][name]]
        values = mesh.get_attribute_by_unique_id(unique_id)["data"]
        if values.shape != (accessor["count"], WIDTHS[accessor["type"]]):
            raise refused(f"its Draco data holds another {name} than it announces")
        vertices[name] = fractions(values) if accessor.get("normalized") else values
    return vertices, mesh.faces.astype(np.int64)
