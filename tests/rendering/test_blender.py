"""Blender against the camera's and the light's own formulas, and the quick renderer against Blender. BLENDER=path names the
executable, as render.executable does."""

import base64
import io
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from rendering.blender import renderer as blender
from rendering.camera import FOV_DEG, RADIUS, focal_length_px, orbit_distance, project
from rendering.failure import Failure
from rendering.job import Job, up_axis
from rendering.light import directions
from rendering.queue.process import Limits, run_job
from rendering.quick import renderer as quick
from tests.helpers.lamps import lamp
from tests.helpers.make_assets import texture
from utils.camera import camera_to_world
from utils.errors import UserError

SIZE = 128
WHITE_SKY = np.full((16, 32, 3), 0.6, np.float32)
# x, y, z; nothing about it is symmetric or near the origin
WEDGE = np.array([(3, 1, 2), (5, 1, 2), (3, 2.2, 2), (3, 1, 3.5), (5, 1, 2.4)])
WEDGE_FACES = [(0, 2, 1), (0, 1, 4), (0, 4, 3), (0, 3, 2), (1, 2, 4), (2, 3, 4)]


def cameras(*angles):
    """Return a matrix for each (azimuth, elevation) in degrees."""
    return [camera_to_world(*angle, orbit_distance()).tolist() for angle in angles]


@pytest.fixture
def draw(tmp_path):
    """Return a function that gives what a renderer has drawn: (asset, cameras, environment, renderer) -> Drawn."""
    numbers = iter(range(100))

    def run(asset, to_world, environment=WHITE_SKY, renderer=blender, wanted="auto"):
        axis = up_axis(asset, wanted)
        command = renderer.command(os.environ.get("BLENDER", "") if renderer is blender else "")
        folder = tmp_path / f"job{next(numbers)}"
        folder.mkdir()
        np.save(folder / "environment.npy", environment)
        names = (str(asset), str(folder / "views"))
        job = Job(*names, to_world, FOV_DEG, SIZE, 16, str(folder / "environment.npy"), "cpu", axis)
        return run_job(command, job, Limits(600, 8))

    return run


@pytest.fixture
def render(draw):
    """Return a function that gives the views, V size size 4 in [0, 1] of straight sRGB and alpha, of what `draw` is given."""
    return lambda *arguments: draw(*arguments).views / 255


def write_ply(path, vertices, faces, colours=None):
    colours = np.full((len(vertices), 3), 255) if colours is None else colours
    head = ["ply", "format ascii 1.0", f"element vertex {len(vertices)}"]
    head += [f"property float {axis}" for axis in "xyz"] + [
        f"property uchar {name}" for name in ("red", "green", "blue")
    ]
    head += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    rows = [" ".join(map(str, [*vertex, *colour])) for vertex, colour in zip(vertices, colours)]
    path.write_text("\n".join([*head, *rows, *(f"3 {a} {b} {c}" for a, b, c in faces)]) + "\n")
    return path


def sphere(rings=40, corners=80):
    """Return vertices at distance 1, and faces that look outwards."""
    polar, turn = np.meshgrid(np.linspace(0, np.pi, rings + 1), np.arange(corners) / corners * 2 * np.pi, indexing="ij")
    points = np.stack([np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), np.cos(polar)], axis=-1)
    index = np.arange((rings + 1) * corners).reshape(rings + 1, corners)
    a, b = index[:-1], np.roll(index[:-1], -1, axis=1)
    c = index[1:]
    d = np.roll(index[1:], -1, axis=1)
    return points.reshape(-1, 3), np.concatenate([np.stack(face, -1).reshape(-1, 3) for face in ((a, c, d), (a, d, b))])


def write_gltf(path, vertices, faces, nodes=None, **more):
    """Write a mesh, which every node of `nodes` with a mesh shows. `more`: material, animations, skins, ..."""
    arrays = [np.asarray(vertices, np.float32), np.asarray(faces, np.uint32).reshape(-1, 1)]
    arrays += [np.asarray(array, np.float32) for array in more.pop("arrays", [])]
    blob = b""
    views = []
    accessors = []
    for array in arrays:
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": array.nbytes})
        kind = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}[array.shape[1]]
        component = 5125 if array.dtype == np.uint32 else 5126
        accessors.append({"bufferView": len(views) - 1, "componentType": component, "count": len(array), "type": kind})
        accessors[-1] |= {"min": array.min(axis=0).tolist(), "max": array.max(axis=0).tolist()}
        blob += array.tobytes()
    attributes = {"POSITION": 0} | more.pop("attributes", {})
    nodes = nodes or [{"mesh": 0}]
    tree = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": more.pop("roots", list(range(len(nodes))))}]}
    tree |= {"nodes": nodes, "accessors": accessors, "bufferViews": views}
    tree["meshes"] = [{"primitives": [{"attributes": attributes, "indices": 1, "material": 0}]}]
    tree["materials"] = [more.pop("material", {})]
    uri = "data:application/octet-stream;base64," + base64.b64encode(blob).decode()
    path.write_text(json.dumps(tree | {"buffers": [{"byteLength": len(blob), "uri": uri}]} | more))
    return path


def normalised(points):
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    return (points - centre) * RADIUS / np.linalg.norm(points - centre, axis=1).max()


def hull_mask(points, to_world):
    """Return which pixels' centres a convex body covers (SIZE SIZE), from its vertices alone."""
    corners = project(points, np.array(to_world), focal_length_px(SIZE), SIZE)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    covered = np.ones((SIZE, SIZE), bool)
    for start in corners:
        for end in corners:
            along = end - start
            sides = along[0] * (corners[:, 1] - start[1]) - along[1] * (corners[:, 0] - start[0])
            if (sides > -1e-9).all() and (sides > 1e-9).any():  # an edge of the hull
                covered &= along[0] * (y - start[1]) - along[1] * (x - start[0]) >= 0
    return covered


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def linear(srgb):
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.slow
def test_the_silhouette_is_that_of_the_projected_vertices_from_all_sides(tmp_path, render):
    to_world = cameras((0, -5), (72, 12), (144, 30), (216, 12), (288, -5))
    views = render(write_ply(tmp_path / "wedge.ply", WEDGE, WEDGE_FACES), to_world)
    for view, matrix in zip(views, to_world):
        expected = hull_mask(normalised(WEDGE), matrix)
        assert expected.sum() > 500
        assert iou(view[..., 3] > 0.5, expected) > 0.98
        assert view[..., 3].sum() == pytest.approx(expected.sum(), rel=0.02)


@pytest.mark.slow
def test_an_obj_and_a_ply_stand_on_the_axis_that_they_are_told(tmp_path, draw):
    obj = tmp_path / "wedge.obj"
    rows = ["v {} {} {}".format(*point) for point in WEDGE] + ["f {} {} {}".format(*np.add(f, 1)) for f in WEDGE_FACES]
    obj.write_text("\n".join(rows) + "\n")
    ply = write_ply(tmp_path / "wedge.ply", WEDGE, WEDGE_FACES)
    for axis, points in (("y", WEDGE @ [[1, 0, 0], [0, 0, 1], [0, -1, 0]]), ("z", WEDGE)):
        for asset in (obj, ply):
            (view,) = draw(asset, cameras((20, 10)), WHITE_SKY, blender, axis).views
            assert iou(view[..., 3] > 127, hull_mask(normalised(points), cameras((20, 10))[0])) > 0.98


@pytest.mark.slow
def test_both_renderers_say_alike_where_an_object_is(tmp_path, draw):
    assets = [
        write_ply(tmp_path / "wedge.ply", WEDGE, WEDGE_FACES),
        write_gltf(tmp_path / "wedge.gltf", WEDGE, WEDGE_FACES, [{"mesh": 0, "rotation": [0, 0.6, 0, 0.8]}]),
    ]
    for asset in assets:
        slow, fast = (draw(asset, cameras((20, 10)), WHITE_SKY, renderer).placement for renderer in (blender, quick))
        np.testing.assert_allclose(slow.centre, fast.centre, atol=1e-5)
        assert slow.scale == pytest.approx(fast.scale, rel=1e-5)
        np.testing.assert_allclose(slow.box, fast.box, rtol=1e-3)


@pytest.mark.slow
def test_markers_are_within_a_pixel_of_where_the_camera_projects_them(tmp_path, render):
    """Each colour has a small octahedron. The colours are far apart, and so are their places as seen from each camera."""
    heights = np.array([0.42, 0.25, 0.08, -0.08, -0.25, -0.42])
    across = [(0.29, -0.31), (-0.19, -0.13), (0.31, -0.33), (0.15, 0.34), (0.29, -0.23), (-0.26, -0.13)]
    places = np.column_stack([across, heights])
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)])
    corners = np.concatenate([np.eye(3), -np.eye(3)]) * 0.06
    octahedron = [(0, 1, 2), (1, 3, 2), (3, 4, 2), (4, 0, 2), (1, 0, 5), (3, 1, 5), (4, 3, 5), (0, 4, 5)]
    vertices = (places[:, None] + corners).reshape(-1, 3)
    faces = [tuple(6 * number + np.array(face)) for number in range(6) for face in octahedron]
    to_world = cameras(*((azimuth, elevation) for azimuth in range(10, 360, 60) for elevation in (-5, 30)))
    views = render(write_ply(tmp_path / "markers.ply", vertices, faces, colours.repeat(6, axis=0)), to_world)
    at_origin = normalised(vertices).reshape(6, 6, 3).mean(axis=1)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    for view, matrix in zip(views, to_world):
        expected = project(at_origin, np.array(matrix), focal_length_px(SIZE), SIZE)
        apart = np.linalg.norm(expected[:, None] - expected, axis=-1) + 99 * np.eye(6)
        assert apart.min() > 15, "the test's markers hide each other"
        nearest = np.linalg.norm(view[..., None, :3] - colours / 255, axis=-1).argmin(axis=-1)
        for number in range(6):
            weight = view[..., 3] * (nearest == number) * (view[..., 3] > 0.2)
            found = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
            assert np.linalg.norm(found - expected[number]) < 1, (number, found, expected[number])


@pytest.mark.slow
@pytest.mark.parametrize("lamp_deg", [(60, 30), (-100, -10)])
def test_a_single_lamp_lights_the_side_that_it_is_on(tmp_path, render, lamp_deg):
    """A matt ball's brightness is the cosine between normal and lamp: the lamp's direction follows from one view."""
    seen_from = [(lamp_deg[0] + 40, 10), (lamp_deg[0] - 50, 25)]
    views = render(matt_ball(tmp_path), cameras(*seen_from), lamp(*lamp_deg))
    towards = np.array(directions(90)[int(90 * (0.5 - lamp_deg[1] / 180)), int(180 * ((0.5 - lamp_deg[0] / 360) % 1))])
    for view, matrix in zip(views, cameras(*seen_from)):
        normals, hit = ball_normals(np.array(matrix))
        brightness = linear(view[..., 1])
        lit = hit & (view[..., 3] == 1) & (brightness > 0.2 * brightness.max()) & (brightness < 0.98)
        assert lit.sum() > 200
        found = np.linalg.lstsq(normals[lit], brightness[lit], rcond=None)[0]
        assert np.degrees(np.arccos(found @ towards / np.linalg.norm(found))) < 6


def matt_ball(tmp_path):
    points, faces = sphere()
    matt = {"pbrMetallicRoughness": {"baseColorFactor": [0.2, 0.2, 0.2, 1], "metallicFactor": 0, "roughnessFactor": 1}}
    return write_gltf(tmp_path / "ball.gltf", points, faces, material=matt)


def ball_normals(to_world):
    """Return the outward normals of a ball of RADIUS (SIZE SIZE 3), and where it is hit (SIZE SIZE)."""
    axis = (np.arange(SIZE) + 0.5 - SIZE / 2) / focal_length_px(SIZE)
    x, y = np.meshgrid(axis, -axis)
    rays = np.stack([x, y, -np.ones_like(x)], axis=-1) @ to_world[:3, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    origin = to_world[:3, 3]
    b, c = rays @ origin, origin @ origin - RADIUS**2
    hit = b * b > c
    depth = -b - np.sqrt(np.maximum(b * b - c, 0))
    return (origin + depth[..., None] * rays) / RADIUS, hit


@pytest.mark.slow
def test_edges_have_the_objects_colour_on_any_background_and_nothing_is_black(tmp_path, render):
    colour = np.array([0.2, 0.5, 0.05])
    unlit = {"pbrMetallicRoughness": {"baseColorFactor": [*colour, 1]}, "extensions": {"KHR_materials_unlit": {}}}
    points, faces = sphere()
    asset = write_gltf(tmp_path / "unlit.gltf", points, faces, material=unlit, extensionsUsed=["KHR_materials_unlit"])
    view = render(asset, cameras((30, 10)))[0]
    rgb = view[..., :3]
    alpha = view[..., 3:]
    np.testing.assert_allclose(linear(np.median(rgb[alpha[..., 0] == 1], axis=0)), colour, rtol=0.02)
    assert ((alpha > 0.05) & (alpha < 0.95)).sum() > 100
    off = (alpha * (rgb - np.median(rgb[alpha[..., 0] == 1], axis=0)))[(alpha[..., 0] > 0) & (alpha[..., 0] < 1)]
    assert abs(off).max() < 12 / 255 and abs(off).mean() < 3 / 255  # of what is seen on any background
    assert abs(off.mean(axis=0)).max() < 2 / 255  # neither a light nor a dark rim
    assert (rgb[alpha[..., 0] == 0] == 0).all()


@pytest.mark.slow
def test_gltf_is_y_up_and_stands_at_rest_whatever_its_animations_lights_and_cameras_do(tmp_path, render):
    to_world = cameras((0, 10), (110, 10))
    y_up = np.stack([WEDGE[:, 0], WEDGE[:, 2], -WEDGE[:, 1]], axis=1)
    turn = {"rotation": [0.5, 0.5, 0.5, 0.5]}  # x to y to z to x
    flies = {
        "samplers": [{"input": 2, "output": 3}],
        "channels": [{"sampler": 0, "target": {"node": 0, "path": "translation"}}],
    }
    grows = {
        "samplers": [{"input": 2, "output": 3}],
        "channels": [{"sampler": 0, "target": {"node": 0, "path": "scale"}}],
    }
    light = {"lights": [{"type": "point", "intensity": 9000}]}
    asset = write_gltf(
        tmp_path / "moving.gltf",
        y_up[:, [1, 2, 0]],
        WEDGE_FACES,
        nodes=[
            turn | {"mesh": 0},
            {"extensions": {"KHR_lights_punctual": {"light": 0}}},
            {"camera": 0, "translation": [99, 0, 0]},
        ],
        arrays=[[(0,), (1,)], [(7, 8, 0.1), (1, 2, 3)]],
        animations=[flies, grows],
        extensionsUsed=["KHR_lights_punctual"],
        extensions={"KHR_lights_punctual": light},
        cameras=[{"type": "perspective", "perspective": {"yfov": 1, "znear": 0.1}}],
        material={"pbrMetallicRoughness": {"baseColorFactor": [0.5, 0.5, 0.5, 1], "metallicFactor": 0}},
    )
    for view, matrix in zip(render(asset, to_world), to_world):
        assert iou(view[..., 3] > 0.5, hull_mask(normalised(WEDGE), matrix)) > 0.98
        assert view[..., :3].max() < 0.9  # the lamp in the file would burn it


@pytest.mark.slow
def test_a_skin_is_posed_as_its_joints_stand(tmp_path, render):
    """The joint stands half a turn about y from where it was bound: x and z of all vertices change sign."""
    to_world = cameras((20, 10), (110, 10))
    weights = np.tile([1.0, 0, 0, 0], (len(WEDGE), 1))
    joints = np.zeros((len(WEDGE), 4))
    y_up = np.stack([WEDGE[:, 0], WEDGE[:, 2], -WEDGE[:, 1]], axis=1)
    path = write_gltf(
        tmp_path / "skin.gltf",
        y_up * (-1, 1, -1),
        WEDGE_FACES,
        nodes=[{"mesh": 0, "skin": 0}, {"rotation": [0, 1, 0, 0]}],
        arrays=[weights, np.eye(4).reshape(1, 16)],
        attributes={"WEIGHTS_0": 2, "JOINTS_0": 4},
        skins=[{"joints": [1], "inverseBindMatrices": 3}],
    )
    tree = json.loads(path.read_text())
    blob = base64.b64decode(tree["buffers"][0]["uri"].partition(",")[2]) + joints.astype(np.uint8).tobytes()
    tree["bufferViews"].append({"buffer": 0, "byteOffset": len(blob) - joints.size, "byteLength": joints.size})
    tree["accessors"].append({"bufferView": 4, "componentType": 5121, "count": len(joints), "type": "VEC4"})
    tree["buffers"] = [{"byteLength": len(blob), "uri": "data:;base64," + base64.b64encode(blob).decode()}]
    path.write_text(json.dumps(tree))
    for view, matrix in zip(render(path, to_world), to_world):
        assert iou(view[..., 3] > 0.5, hull_mask(normalised(WEDGE), matrix)) > 0.98


REFUSED = {
    "text.glb": ("I am no mesh", "json"),
    "points.ply": (
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n0 0 0\n",
        "no mesh",
    ),
    "dot.obj": ("v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", "no extent|no mesh"),
    "huge.obj": ("v 0 0 0\nv 1e30 0 0\nv 0 1e30 0\nf 1 2 3\n", "size is 7e[+]29"),
    "tiny.obj": ("v 0 0 0\nv 1e-30 0 0\nv 0 1e-30 0\nf 1 2 3\n", "size is 7e-31"),
    "two.obj": ("mtllib pink.mtl red.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not several: pink.mtl red.mtl"),
    "twice.obj": (
        "mtllib red.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl red\nf 1 2 3\nusemtl blue\nf 6 5 4\n",
        "faces that lie on each other",
    ),
    "above.obj": (
        "mtllib above.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl a\nf 1/1 2/1 3/1\n",
        "outside its folder",
    ),
    "capital.gltf": (
        json.dumps(
            {
                "asset": {"version": "2.0"},
                "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
                "nodes": [{"mesh": 0}],
                "scenes": [{"nodes": [0]}],
                "accessors": [{"componentType": 5126, "count": 3, "type": "VEC3", "min": [0] * 3, "max": [0] * 3}],
                "images": [{"uri": "DATA:image/png;base64,"}],
            }
        ),
        "a data URI that starts with DATA:image/png",
    ),
    "pink.obj": ("mtllib pink.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl a\nf 1/1 2/1 3/1\n", r"texture gone\.png"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_blender_cannot_draw_is_refused_with_the_reason(tmp_path, render, name):
    (tmp_path / "asset").mkdir()
    (tmp_path / "asset/pink.mtl").write_text("newmtl a\nmap_Kd gone.png\n")
    (tmp_path / "asset/red.mtl").write_text("newmtl red\nKd 1 0 0\nnewmtl blue\nKd 0 0 1\n")
    (tmp_path / "asset/above.mtl").write_text("newmtl a\nmap_Kd ../above.png\n")
    (tmp_path / "above.png").write_bytes(texture(0))
    (tmp_path / "asset" / name).write_text(REFUSED[name][0])
    with pytest.raises(Failure, match=REFUSED[name][1]) as failure:
        render(tmp_path / "asset" / name, cameras((0, 0)))
    assert failure.value.kind == "refused"


@pytest.mark.slow
@pytest.mark.parametrize(
    "extension", ["KHR_materials_diffuse_transmission", "KHR_node_visibility", "EXT_meshopt_compression"]
)
def test_an_extension_that_blender_does_not_read_is_refused_by_name(tmp_path, render, extension):
    required = {"extensionsRequired": [extension]} if extension.startswith("EXT") else {}
    material = {"extensions": {"KHR_materials_diffuse_transmission": {"diffuseTransmissionFactor": 0.5}}}
    material = material if "materials" in extension else {}
    asset = write_gltf(
        tmp_path / "a.gltf", WEDGE, WEDGE_FACES, material=material, extensionsUsed=[extension], **required
    )
    with pytest.raises(Failure, match=extension) as failure:
        render(asset, cameras((0, 0)))
    assert failure.value.kind == "refused"


@pytest.mark.slow
def test_the_quick_renderer_has_blenders_silhouettes_and_light(tmp_path, render):
    to_world = cameras((15, 10), (135, 25), (255, -5))
    for asset in (write_ply(tmp_path / "wedge.ply", WEDGE, WEDGE_FACES), matt_ball(tmp_path)):
        for slow, fast in zip(*(render(asset, to_world, lamp(60, 30, 25), renderer) for renderer in (blender, quick))):
            assert iou(slow[..., 3] > 0.5, fast[..., 3] > 0.5) > 0.98
            solid = (slow[..., 3] == 1) & (fast[..., 3] == 1)
            assert abs(slow - fast)[solid].mean() < 0.05


@pytest.mark.slow
def test_nodes_may_stand_thousands_deep(tmp_path, render):
    nodes = [{"children": [below]} for below in range(1, 3000)] + [{"mesh": 0}]
    y_up = np.stack([WEDGE[:, 0], WEDGE[:, 2], -WEDGE[:, 1]], axis=1)
    view = render(write_gltf(tmp_path / "deep.gltf", y_up, WEDGE_FACES, nodes, roots=[0]), cameras((20, 10)))[0]
    assert iou(view[..., 3] > 0.5, hull_mask(normalised(WEDGE), cameras((20, 10))[0])) > 0.98


def both(render, asset, to_world, environment):
    """Return Blender's views and the quick renderer's, V size size 4, after checking that their silhouettes are the same."""
    pair = [render(asset, to_world, environment, renderer) for renderer in (blender, quick)]
    for slow, fast in zip(*pair):
        assert iou(slow[..., 3] > 0.5, fast[..., 3] > 0.5) > 0.97
    return pair


def corner_colours(view):
    """Return the mean colours (4 3) of the upper left, upper right, lower left and lower right quarter, away from their edges."""
    y, x = (np.nonzero((view[..., 3] > 0.5).any(axis=axis))[0][[0, -1]] for axis in (1, 0))
    thirds = [[round(low + part * (high - low)) for part in (0.15, 0.35, 0.65, 0.85)] for low, high in (y, x)]
    (a, b, c, d), (e, f, g, h) = thirds
    return np.array(
        [
            view[rows, columns, :3].mean(axis=(0, 1))
            for rows in (slice(a, b), slice(c, d))
            for columns in (slice(e, f), slice(g, h))
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("library", ["", "mtllib paint.mtl", " mtllib paint.mtl"])
def test_an_objs_materials_are_blenders_in_the_quick_renderer(tmp_path, render, library):
    """Of four squares one has a colour, one a texture, two a material that is nowhere. Under a lamp, metal would be dark."""
    squares = np.zeros((2, 2, 3), np.uint8)
    squares[:] = (30, 160, 60)
    Image.fromarray(squares).save(tmp_path / "green.png")
    (tmp_path / "paint.mtl").write_text("newmtl red\nKd 0.6 0.1 0.1\nnewmtl green\nKd 0.3 0.3 0.3\nmap_Kd green.png\n")
    name = "card" if library else "paint"  # the .mtl that has the .obj's name is read, too
    lines = [library, "vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    first = 1
    for material, (x, y) in zip(("none", "red", "green", "lost"), ((0, 1), (1, 1), (0, 0), (1, 0))):
        lines += [f"v {x + dx} {y + dy} 0" for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1))]
        lines += [f"usemtl {material}", "f " + " ".join(f"{first + corner}/{1 + corner}" for corner in range(4))]
        first += 4
    (tmp_path / f"{name}.obj").write_text("\n".join(lines) + "\n")
    slow, fast = both(render, tmp_path / f"{name}.obj", cameras((270, 10)), lamp(-90, 40, 25))
    colours = corner_colours(slow[0])
    assert colours[1, 0] > 2 * colours[1, 1] and colours[2, 1] > 2 * colours[2, 0]  # red, green
    assert abs(colours - corner_colours(fast[0])).max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("shown", [{}, {"scene": 0}])
def test_what_is_not_in_the_shown_scene_is_not_drawn(tmp_path, render, shown):
    """A node of another scene, its child and one of no scene would be far away. Without `scene` the first one is shown."""
    nodes = [{"mesh": 0}, {"mesh": 0, "translation": [9, 0, 0], "children": [2]}, {"mesh": 0, "translation": [0, 9, 0]}]
    asset = write_gltf(tmp_path / "scenes.gltf", WEDGE, WEDGE_FACES, [*nodes, {"mesh": 0, "translation": [0, 0, 9]}])
    tree = json.loads(asset.read_text())
    del tree["scene"]
    asset.write_text(json.dumps(tree | {"scenes": [{"nodes": [0]}, {"nodes": [1]}]} | shown))
    alone = write_gltf(tmp_path / "alone.gltf", WEDGE, WEDGE_FACES)
    to_world = cameras((30, 20))
    for drawn in both(render, asset, to_world, WHITE_SKY):
        assert iou(drawn[0, ..., 3] > 0.5, render(alone, to_world)[0, ..., 3] > 0.5) > 0.98


@pytest.mark.slow
def test_the_colours_of_an_objs_texture_do_not_depend_on_its_alpha(tmp_path, render):
    """The .mtl uses the colours of the texture and not its alpha, which is 0 in all of it."""
    Image.new("RGBA", (8, 8), (200, 40, 40, 0)).save(tmp_path / "clear.png")
    (tmp_path / "card.mtl").write_text("newmtl card\nmap_Kd clear.png\n")
    square = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    (tmp_path / "card.obj").write_text(f"mtllib card.mtl\n{square}usemtl card\nf 1/1 2/2 3/3 4/4\n")
    slow, fast = both(render, tmp_path / "card.obj", cameras((270, 10)), lamp(-90, 40, 25))
    middle = slow[0, SIZE // 2, SIZE // 2]
    assert middle[0] > 2 * middle[1] and middle[3] == 1
    assert abs(middle - fast[0, SIZE // 2, SIZE // 2]).max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_faces_that_are_there_twice_are_drawn_once(tmp_path, render, apart):
    """The second time they are wound the other way, in the same mesh or in a node of its own."""
    points, faces = sphere(20, 40)
    matt = {"pbrMetallicRoughness": {"baseColorFactor": [0.5, 0.5, 0.5, 1], "metallicFactor": 0, "roughnessFactor": 1}}
    single = write_gltf(
        tmp_path / "single.gltf", points, faces, material=matt, attributes={"NORMAL": 2}, arrays=[points]
    )
    if apart:
        more = {"arrays": [points], "nodes": [{"mesh": 0}, {"mesh": 0}]}
        double = write_gltf(tmp_path / "double.gltf", points, faces, material=matt, attributes={"NORMAL": 2}, **more)
    else:
        more = {"arrays": [np.concatenate([points, -points])], "attributes": {"NORMAL": 2}}
        both_ways = np.concatenate([faces, faces[:, ::-1] + len(points)])
        double = write_gltf(tmp_path / "double.gltf", np.tile(points, (2, 1)), both_ways, material=matt, **more)
    to_world = cameras((20, 20))
    light = lamp(60, 30, 25)
    slow, fast = both(render, double, to_world, light)
    expected = render(single, to_world, light)
    solid = (slow[..., 3] == 1) & (fast[..., 3] == 1)
    assert expected[solid][:, :3].max() > 0.5
    assert abs(slow - expected)[solid].mean() < 0.01
    assert abs(slow - fast)[solid].mean() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("scale", [[1, 1, 1], [-1, 1, 1], [-1, -1, -1], [1, -1, 1]])
def test_normal_maps_bend_as_in_blender_also_in_mirrored_nodes(tmp_path, render, scale):
    """The left half of a card leans to its right, its upper half leans up; it is seen and lit from the front."""
    texels = np.zeros((8, 8, 3), np.uint8)
    texels[..., 2] = 220
    texels[..., 0] = 128
    texels[..., 1] = 128
    texels[:, :4, 0] = 210
    texels[:4, :, 1] = 210
    buffer = io.BytesIO()
    Image.fromarray(texels).save(buffer, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    matt = {"pbrMetallicRoughness": {"baseColorFactor": [0.4, 0.4, 0.4, 1], "metallicFactor": 0, "roughnessFactor": 1}}
    asset = write_gltf(
        tmp_path / "card.gltf",
        [(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)],
        [(0, 1, 2), (0, 2, 3)],
        nodes=[{"mesh": 0, "scale": scale}],
        arrays=[np.tile([0.0, 0, 1], (4, 1)), [(0, 1), (1, 1), (1, 0), (0, 0)]],
        attributes={"NORMAL": 2, "TEXCOORD_0": 3},
        material=matt | {"normalTexture": {"index": 0}},
        textures=[{"source": 0, "sampler": 0}],
        samplers=[{"magFilter": 9728}],
        images=[{"uri": uri}],
    )
    for lamp_deg in ((-50, 20), (-110, 50)):
        slow, fast = both(render, asset, cameras((270, 0)), lamp(*lamp_deg, 20))
        colours = corner_colours(slow[0])
        assert np.ptp(colours) > 0.05, "the test's map is not seen"
        assert abs(colours - corner_colours(fast[0])).max() < 0.06, (lamp_deg, colours, corner_colours(fast[0]))


def stand_in(folder, name, script="exit 0"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return str(folder / name)


@pytest.fixture
def nothing_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(blender, "_ENVIRONMENT", tmp_path / "env" / "python")


def test_a_blender_or_a_python_is_found_in_this_order(tmp_path, nothing_installed):
    worker = str(blender._WORKER)
    assert os.path.exists(worker)
    python = stand_in(tmp_path / "bin", "python3.11")
    assert blender.command("") == [python, worker]
    environment = stand_in(tmp_path / "env", "python")
    assert blender.command("") == [environment, worker]
    executable = stand_in(tmp_path / "bin", "blender")
    assert blender.command("") == [
        executable, "--background", "--factory-startup", "--python-exit-code", "1", "--python", worker, "--",
    ]  # fmt: skip
    assert blender.command(python) == [python, worker]


def test_without_blender_the_error_is_one_line_with_the_install_command(tmp_path, nothing_installed):
    stand_in(tmp_path / "bin", "python3.11", "echo \"ModuleNotFoundError: No module named 'bpy'\" >&2; exit 1")
    for executable in ("", str(tmp_path / "none"), sys.executable, stand_in(tmp_path / "bin", "not_blender", "exit 3")):
        with pytest.raises(UserError) as error:
            blender.command(executable)
        assert str(error.value).endswith(f"`{blender.INSTALL}` makes an environment for it") and "\n" not in str(
            error.value
        )
        assert not executable or str(error.value).startswith(f"render.executable: {executable}: ")


def test_a_missing_system_library_is_told_apart_from_a_missing_blender(tmp_path, nothing_installed):
    script = "echo 'ImportError: libXrender.so.1: cannot open shared object file: No such file' >&2; exit 1"
    stand_in(tmp_path / "bin", "python3.11", script)
    with pytest.raises(UserError, match=r"libXrender.*system library is missing") as error:
        blender.command("")
    assert blender.INSTALL not in str(error.value)
