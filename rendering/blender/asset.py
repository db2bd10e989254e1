"""The asset in Blender's scene, as both renderers agree on it. This runs inside Blender's Python, for worker.py.

Of an asset that is y up, (x, y, z) is the world's (x, -z, y). Animations are dropped, so that nodes, skins and morph targets
stand as the file has them at rest; lights are put out, cameras have no effect. Every face is drawn, from
both sides; a surface without a material is Blender's grey of 0.8, or has its vertex colours. Loose points and edges are not
drawn, and do not count for the object's size.
"""

import logging
import sys
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

from rendering.blender.doubles import drop_doubles
from rendering.coincident import ON_EACH_OTHER
from rendering.extent import Placement, centre_and_farthest, place
from rendering.gltf import Gltf, refused
from rendering.gltf_demands import BLENDER_MATERIALS, demands
from rendering.safety.companions import is_data, shared_library_lines

QUICK_READS_IT = "render.renderer=quick reads it"
MAX_NODE_DEPTH = 20_000
MAX_SIZE = 1e15  # an object larger than this, or smaller than 1 / MAX_SIZE, leaves Blender's single precision


def load(path: Path, up_axis: str) -> None:
    """Import the asset. Raises Failure if it is damaged, or asks for what Blender does not draw."""
    if path.suffix.lower() == ".obj" and (several := shared_library_lines(path)):
        raise refused(f"Blender reads one .mtl of a line, not several: {several[0]}; {QUICK_READS_IT}")
    try:
        if path.suffix.lower() in (".glb", ".gltf"):
            _load_gltf(str(path))
        else:
            IMPORTERS[path.suffix.lower()](filepath=str(path), **AXES[up_axis])
            for image in bpy.data.images:
                image.alpha_mode = "CHANNEL_PACKED"  # or colours are black where alpha is 0, though alpha is not used
    except RuntimeError as error:  # how bpy.ops reports; a Python traceback ends with the cause
        raise refused(f"Blender's importer: {str(error).strip().splitlines()[-1]}") from None
    if path.suffix.lower() in (".glb", ".gltf"):
        tree = Gltf(path.read_bytes(), path.parent).tree
        _check_data_uris(tree)
        _check_demands(demands(tree))
    for thing in bpy.data.objects:
        thing.hide_render |= thing.type == "LIGHT"
    _check_textures(path.parent.resolve())
    _paint_bare_meshes()


class _ShownAtRest:
    """A hook of Blender's glTF importer: before they are read it drops the animations, and what is not in the shown scene.

    Blender 4.2 draws the nodes of all scenes, and those that are in no scene. Without a `scene` the first one is shown, as in
    the other renderer.
    """

    def gather_import_gltf_before_hook(self, gltf):
        tree = gltf.data
        tree.animations = []
        if not tree.scenes:
            return
        tree.scene = tree.scene or 0
        shown = set()
        waiting = list(tree.scenes[tree.scene].nodes or [])
        while waiting:
            index = waiting.pop()
            if index not in shown:
                shown.add(index)
                waiting += tree.nodes[index].children or []
        for index, node in enumerate(tree.nodes or []):
            if index not in shown:
                node.mesh = None


class _Skipped(logging.Handler):
    """Collects the parts that the glTF importer could not decode, which it only logs."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.texts = []

    def emit(self, record):
        if "Skipping primitive" in record.getMessage():
            self.texts.append(record.getMessage())


def _load_gltf(filepath: str) -> None:
    sys.setrecursionlimit(MAX_NODE_DEPTH)  # the importer recurses from node to node, and Python's own limit is 1000
    sys.modules["io_scene_gltf2"].glTF2ImportUserExtension = _ShownAtRest
    skipped = _Skipped()
    logging.getLogger("glTFImporter_errors").addHandler(skipped)
    # TEMPERANCE is a heuristic that gives the bones no shapes to look at; the skin is the same with all of them.
    bpy.ops.import_scene.gltf(filepath=filepath, bone_heuristic="TEMPERANCE")
    if skipped.texts:
        raise refused(skipped.texts[0])


AXES = {
    "y": {"up_axis": "Y", "forward_axis": "NEGATIVE_Z"},
    "z": {"up_axis": "Z", "forward_axis": "Y"},
}
IMPORTERS = {
    ".obj": bpy.ops.wm.obj_import,
    ".ply": bpy.ops.wm.ply_import,
    ".stl": bpy.ops.wm.stl_import,
}


def _check_demands(wanted: set[str]) -> None:
    wrong = {name for name in wanted if name.startswith("KHR_materials_")} - BLENDER_MATERIALS
    wrong |= wanted & {"KHR_node_visibility", "points or lines"}
    if wrong:
        raise refused(f"Blender does not draw: {', '.join(sorted(wrong))}")


def _check_data_uris(tree: dict) -> None:
    """Blender draws nothing of an image's data that is written in another way, and does not say so."""
    for item in [*tree.get("buffers", []), *tree.get("images", [])]:
        uri = item.get("uri", "")
        if is_data(uri) and not (uri.startswith("data:") and ";base64," in uri):
            raise refused(f"Blender does not read a data URI that starts with {uri[:40]}; {QUICK_READS_IT}")


def _check_textures(folder: Path) -> None:
    """Blender draws a texture that it cannot read in pink, and one of an unknown kind in black. It looks for an .obj's textures by
    rules of its own, so whatever was found has to be in `folder`."""
    for image in bpy.data.images:
        if image.filepath and not image.packed_file:
            found = Path(bpy.path.abspath(image.filepath)).resolve()
            if not found.is_relative_to(folder):
                raise refused(f"the texture {image.name} is outside its folder")
        if image.source != "GENERATED" and not (image.size[0] and image.size[1]):
            raise refused(f"the texture {image.name} is missing or cannot be read")
    for material in bpy.data.materials:
        if any(node.type == "TEX_IMAGE" and node.image is None for node in material.node_tree.nodes):
            raise refused(f"the material {material.name} has a texture of a kind that Blender does not read")


def _paint_bare_meshes() -> None:
    """Vertex colours are shown only by a material that asks for them, and .ply and .obj come without."""
    for mesh in bpy.data.meshes:
        if mesh.materials:
            continue
        material = bpy.data.materials.new("bare")
        material.use_nodes = True
        mesh.materials.append(material)
        if mesh.color_attributes:
            nodes = material.node_tree.nodes
            colours = nodes.new("ShaderNodeVertexColor")
            colours.layer_name = mesh.color_attributes[0].name
            surface = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
            material.node_tree.links.new(colours.outputs["Color"], surface.inputs["Base Color"])


def normalise_object(scene) -> Placement:
    """Bring the drawn faces' bounding box to the origin and its farthest vertex to RADIUS. Of faces on each other one stays."""
    drawn = _drawn()
    points = np.concatenate([_face_vertices(mesh, points) for _, mesh, points in drawn])
    _, farthest = centre_and_farthest(points)
    if not farthest > 0:
        raise refused("the object has no extent, or vertices that are no numbers")
    if not 1 / MAX_SIZE < farthest < MAX_SIZE:
        raise refused(f"the object's size is {farthest:.0e}, beyond what Blender computes with")
    if not drop_doubles(drawn):
        raise refused(ON_EACH_OTHER)
    placement = place(points)
    stand = bpy.data.objects.new("stand", None)
    scene.collection.objects.link(stand)
    for top in [thing for thing in bpy.data.objects if thing.parent is None and thing != stand]:
        top.parent = stand
    stand.matrix_world = Matrix.Scale(placement.scale, 4) @ Matrix.Translation(-np.array(placement.centre))
    _scale_volumes(placement.scale)
    return placement


def _drawn() -> list[tuple]:
    """Return (object, mesh, N 3: its vertices in the world) of all that is rendered and has faces, modifiers and skins applied."""
    found = []
    for instance in bpy.context.evaluated_depsgraph_get().object_instances:
        thing = instance.object
        if thing.type != "MESH" or thing.hide_render or not len(thing.data.polygons):
            continue
        points = np.empty(len(thing.data.vertices) * 3, np.float32)
        thing.data.vertices.foreach_get("co", points)
        matrix = np.array(instance.matrix_world)
        found.append((thing.original, thing.data, points.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]))
    if not found:
        raise refused("no mesh with faces")
    return found


def _face_vertices(mesh, points: np.ndarray) -> np.ndarray:
    """Leave out the vertices of loose points and edges."""
    corners = np.empty(len(mesh.loops), np.int32)
    mesh.loops.foreach_get("vertex_index", corners)
    return points[np.unique(corners)]


def has_transparency() -> bool:
    """Say whether a material lets a part of the light through, as glTF's BLEND and an .obj's `d 0.4` do (a MASK does not)."""
    nodes = [node for material in bpy.data.materials for node in material.node_tree.nodes]
    alphas = [node.inputs["Alpha"] for node in nodes if node.type == "BSDF_PRINCIPLED"]
    blended = any(material.surface_render_method == "BLENDED" for material in bpy.data.materials)
    return blended or any(alpha.default_value < 1 and not alpha.is_linked for alpha in alphas)


def _scale_volumes(scale: float) -> None:
    """Tinted glass absorbs per unit of length, and lengths have changed."""
    for material in bpy.data.materials:
        for node in material.node_tree.nodes:
            if node.type in ("VOLUME_ABSORPTION", "VOLUME_SCATTER", "PRINCIPLED_VOLUME"):
                node.inputs["Density"].default_value /= scale
