"""The quick renderer against what is known without it: projections, colours in even light, where a lamp stands."""

import io
import json
import re
import struct
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rendering.camera import focal_length_px, orbit_distance, project
from rendering.failure import Failure
from rendering.gltf import Gltf
from rendering.gltf_demands import DRAWN_BY_BLENDER, demands
from rendering.job import Job, to_json, up_axis
from rendering.quick import baking, draco, ktx2, mesh
from rendering.quick import renderer as quick
from rendering.quick import worker as quick_worker
from rendering.quick.material import linear, srgb
from rendering.quick.primitives import world_matrices
from tests.helpers.lamps import lamp
from utils.camera import camera_to_world
from utils.errors import UserError

SIZE = 64
FRONT = 270  # the azimuth that sees a glTF's xy plane upright: its z is the world's -y
QUAD = (np.array([[-1, 1, 0], [-1, -1, 0], [1, -1, 0], [1, 1, 0]], np.float32), [[0, 1, 2], [0, 2, 3]])
QUAD_UV = np.array([[0, 0], [0, 1], [1, 1], [1, 0]], np.float32)
CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
CUBE_FACES = np.array(
    [0, 1, 3, 0, 3, 2, 4, 6, 7, 4, 7, 5, 0, 4, 5, 0, 5, 1, 2, 3, 7, 2, 7, 6, 0, 2, 6, 0, 6, 4, 1, 5, 7, 1, 7, 3]
)
CUBE_FACES = CUBE_FACES.reshape(12, 3)
MATT = {"metallicFactor": 0, "roughnessFactor": 1}


@pytest.fixture(autouse=True)
def _few_rays(monkeypatch):
    monkeypatch.setattr(baking, "NUM_RAYS", 200_000)


def sphere(centre=(0, 0, 0), radius=1.0, rings=24):
    """Return vertices, faces and normals."""
    polar, azimuth = np.meshgrid(np.linspace(0, np.pi, rings), np.linspace(0, 2 * np.pi, 2 * rings), indexing="ij")
    normals = np.stack([np.sin(polar) * np.cos(azimuth), np.cos(polar), np.sin(polar) * np.sin(azimuth)], axis=-1)
    number = np.arange(polar.size).reshape(polar.shape)
    one, two, three, four = (
        part.ravel() for part in (number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:])
    )
    faces = np.concatenate([np.stack([one, two, three], axis=1), np.stack([two, four, three], axis=1)])
    normals = normals.reshape(-1, 3).astype(np.float32)
    return normals * np.float32(radius) + np.float32(centre), faces, normals


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.array(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def unlit(*rgba, **more) -> dict:
    pbr = {"baseColorFactor": [*rgba, 1][:4]} | more.pop("pbr", {})
    return {"pbrMetallicRoughness": pbr, "extensions": {"KHR_materials_unlit": {}}} | more


class Builder:
    """A glTF file, a node for each mesh."""

    def __init__(self):
        self.tree = {
            "asset": {"version": "2.0"},
            "nodes": [],
            "meshes": [],
            "materials": [],
            "accessors": [],
            "bufferViews": [],
        }
        self.data = b""

    def view(self, data: bytes) -> int:
        self.tree["bufferViews"].append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)})
        self.data += data + b"\0" * (-len(data) % 4)
        return len(self.tree["bufferViews"]) - 1

    def accessor(self, values, dtype=np.float32) -> int:
        values = np.asarray(values, dtype)
        kind = {np.float32: 5126, np.uint8: 5121, np.uint32: 5125}[dtype]
        width = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}[values.shape[1] if values.ndim > 1 else 1]
        entry = {"bufferView": self.view(values.tobytes()), "componentType": kind, "count": len(values), "type": width}
        self.tree["accessors"].append(entry)
        return len(self.tree["accessors"]) - 1

    def texture(self, pixels, **sampler) -> dict:
        for name, entry in (("images", {"bufferView": self.view(png(pixels))}), ("samplers", sampler)):
            self.tree.setdefault(name, []).append(entry)
        count = len(self.tree["images"])
        self.tree.setdefault("textures", []).append({"source": count - 1, "sampler": count - 1})
        return {"index": count - 1}

    def mesh(self, points, faces, material=None, normals=None, uv=None, **node) -> dict:
        """Add a mesh with its node, and return the primitive for a test to change."""
        found = {"POSITION": points, "NORMAL": normals, "TEXCOORD_0": uv}
        attributes = {name: self.accessor(values) for name, values in found.items() if values is not None}
        primitive = {"attributes": attributes, "indices": self.accessor(np.ravel(faces), np.uint32)}
        if material is not None:
            self.tree["materials"].append(material)
            primitive["material"] = len(self.tree["materials"]) - 1
        self.tree["nodes"].append({"mesh": len(self.tree["meshes"])} | node)
        self.tree["meshes"].append({"primitives": [primitive]})
        return primitive

    def write(self, path):
        self.tree["buffers"] = [{"byteLength": len(self.data)}]
        text = json.dumps(self.tree).encode()
        text += b" " * (-len(text) % 4)
        chunks = (
            struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(self.data), b"BIN\0") + self.data
        )
        path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
        return path


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Return a function that draws an asset or a Builder: V SIZE SIZE 4 uint8, or the reason why not."""
    Image.init()
    monkeypatch.setattr(Image, "ID", [*Image.ID])  # the worker shortens it, which elsewhere is its own process's

    def run(asset, azimuths=(FRONT,), elevation_deg=0.0, environment=None, samples=4, up_axis="y"):
        if isinstance(asset, Builder):
            asset = asset.write(tmp_path / "asset.glb")
        views = tmp_path / "views"
        views.mkdir(exist_ok=True)
        np.save(tmp_path / "sky.npy", np.ones((32, 64, 3), np.float32) if environment is None else environment)
        cameras = [camera_to_world(azimuth, elevation_deg, orbit_distance()).tolist() for azimuth in azimuths]
        job = Job(str(asset), str(views), cameras, 33.8, SIZE, samples, str(tmp_path / "sky.npy"), "cpu", up_axis)
        (tmp_path / "job.json").write_text(to_json(job))
        quick_worker.main(str(tmp_path / "job.json"))
        refused = json.loads((views / "result.json").read_text())["refused"]
        return refused or np.stack(
            [np.asarray(Image.open(views / f"{index:03d}.png")) for index in range(len(azimuths))]
        )

    return run


@pytest.fixture
def no_decoders(monkeypatch):
    """Without the optional packages, also where they are installed."""
    for decoder in mesh.PACKAGES:
        monkeypatch.setattr(decoder, "is_installed", lambda: False)


def to_world(points, everything=None) -> np.ndarray:
    """Return where glTF's places are in the world, if `everything` are the object's vertices."""
    turned, everything = (
        np.asarray(part) @ [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
        for part in (points, points if everything is None else everything)
    )
    centre = (everything.min(axis=0) + everything.max(axis=0)) / 2
    return (turned - centre) * 0.5 / np.linalg.norm(everything - centre, axis=1).max()


def outline(points: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Return the pixels whose middles are in the convex hull of the projected points (SIZE SIZE)."""
    corners = project(points, camera, focal_length_px(SIZE), SIZE)
    middles = np.stack(np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5), axis=-1)
    inside = np.ones((SIZE, SIZE), bool)
    for angle in np.linspace(0, 2 * np.pi, 720):
        direction = np.array([np.cos(angle), np.sin(angle)])
        inside &= middles @ direction <= (corners @ direction).max()
    return inside


def test_the_silhouette_of_a_turned_box_is_its_projected_outline(draw):
    builder = Builder()
    points = CUBE * np.float32([1, 0.5, 0.3])
    turn = np.array([0.2, 0.4, 0.1, 0.8])
    builder.mesh(points, CUBE_FACES, rotation=(turn / np.linalg.norm(turn)).tolist(), translation=[5, 6, 7])
    matrix = world_matrices(builder.tree)[0]
    corners = to_world(points @ matrix[:3, :3].T)
    for elevation in (-5, 12, 30):
        azimuths = np.arange(0, 360, 72)
        for azimuth, view in zip(azimuths, draw(builder, azimuths, elevation, samples=9)):
            expected = outline(corners, camera_to_world(azimuth, elevation, orbit_distance()))
            drawn = view[..., 3] > 127
            assert (expected & drawn).sum() / (expected | drawn).sum() >= 0.98


def test_markers_are_found_within_a_pixel_of_their_projections_from_all_sides(draw):
    builder = Builder()
    rng = np.random.default_rng(0)
    places = np.float32([[1, 0, 0], [-1, 0.3, 0], [0, 1, 0.2], [0, -1, 0], [0.3, 0, 1], [0, 0.2, -1]])
    colours = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    for place, colour in zip(places, colours):
        builder.mesh(*sphere(place, 0.12, 12)[:2], unlit(*map(float, colour)))
    everything = np.concatenate([sphere(place, 0.12, 12)[0] for place in places])
    azimuths = rng.uniform(0, 360, 8)
    found = np.zeros(len(places), int)
    for elevation in (-5, 30):
        for azimuth, view in zip(azimuths, draw(builder, azimuths, elevation)):
            camera = camera_to_world(azimuth, elevation, orbit_distance())
            expected = project(to_world(places, everything), camera, focal_length_px(SIZE), SIZE)
            for index, colour in enumerate(colours):
                weight = view[..., 3] * (view[..., :3] == colour * 255).all(axis=-1) / 255
                if weight.sum() > 12:  # of some 15 pixels: not hidden
                    rows, columns = np.indices(weight.shape) + 0.5
                    middle = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
                    assert np.abs(middle - expected[index]).max() < 1, (azimuth, elevation, index)
                    found[index] += 1
    assert (found >= 8).all(), found


def test_a_lamp_lights_the_side_that_it_stands_on(draw):
    builder = Builder()
    builder.mesh(*sphere()[:2], {"pbrMetallicRoughness": MATT}, sphere()[2])
    for azimuth in (0, 90, 200):
        towards, right, away, left = draw(builder, azimuth + np.array([0, 90, 180, 270]), 0, lamp(azimuth, 10))[
            ..., 0
        ].astype(int)
        assert towards[32, 32] > 100 and away[32, 32] < 10
        assert right[32, 16] > right[32, 48] + 50, "seen from its left hand, the lamp's side is on the left"
        assert left[32, 48] > left[32, 16] + 50
    (above,) = draw(builder, [0], 0, lamp(0, 80))[..., 0].astype(int)
    assert above[12, 32] > above[52, 32] + 50


def test_a_mirror_shows_what_stands_behind_the_camera(draw):
    builder = Builder()
    builder.mesh(*sphere()[:2], {"pbrMetallicRoughness": {"roughnessFactor": 0}}, sphere()[2])
    towards, away = draw(builder, [70, 250], 0, lamp(70, 0))[:, 32, 32, 0]
    assert towards > 200 and away < 10


@pytest.mark.parametrize("factors", [MATT, {"metallicFactor": 1, "roughnessFactor": 0.2}])
def test_in_even_light_a_ball_has_its_own_colour(draw, factors):
    builder = Builder()
    colour = np.array([0.8, 0.4, 0.2])
    builder.mesh(*sphere()[:2], {"pbrMetallicRoughness": {"baseColorFactor": [*colour, 1]} | factors}, sphere()[2])
    seen = linear(draw(builder)[0, 32, 32, :3] / 255)
    np.testing.assert_allclose(seen, colour, atol=0.06)


def test_a_corner_of_a_room_is_darker_than_its_floor_in_the_open(draw):
    builder = Builder()
    points = np.float32(
        [[-4, 0, -4], [-4, 0, 4], [4, 0, 4], [4, 0, -4], [-4, 0, -4], [4, 0, -4], [4, 3, -4], [-4, 3, -4]]
    )
    faces = [[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]]
    grey = {"pbrMetallicRoughness": MATT | {"baseColorFactor": [0.5] * 3 + [1]}}
    builder.mesh(points, faces, grey)
    camera = camera_to_world(FRONT, 25, orbit_distance())
    places = to_world([[0, 0, -3.8], [0, 0, 3]], points)
    edge, middle = project(places, camera, focal_length_px(SIZE), SIZE).astype(int)
    (view,) = draw(builder, elevation_deg=25)[..., 0].astype(int)
    assert view[edge[1], edge[0]] + 10 < view[middle[1], middle[0]]


def test_edges_have_the_objects_colour_and_what_is_empty_is_black(draw):
    builder = Builder()
    colour = np.array([0.9, 0.2, 0.05])
    builder.mesh(*sphere()[:2], unlit(*colour))
    (view,) = draw(builder, samples=16)
    partly = (view[..., 3] > 0) & (view[..., 3] < 255)
    assert partly.sum() > 50 and (view[view[..., 3] == 0] == 0).all()
    assert np.abs(view[view[..., 3] > 0][:, :3] - srgb(colour) * 255).max() <= 1


def test_alpha_mask_cuts_out_and_blend_lets_through(draw):
    builder = Builder()
    texture = builder.texture([[[255, 0, 0, 100], [255, 0, 0, 200]]], magFilter=9728)
    builder.mesh(
        *QUAD, unlit(1, 1, 1, pbr={"baseColorTexture": texture}, alphaMode="MASK", alphaCutoff=0.5), uv=QUAD_UV
    )
    assert draw(builder)[0, 32, [24, 40], 3].tolist() == [0, 255]
    builder.tree["materials"][0]["alphaMode"] = "BLEND"
    np.testing.assert_array_equal(draw(builder)[0, 32, [24, 40]], [[255, 0, 0, 100], [255, 0, 0, 200]])
    builder.tree["materials"][0]["alphaMode"] = "OPAQUE"
    assert draw(builder)[0, 32, [24, 40], 3].tolist() == [255, 255]


def test_layers_of_glass_are_mixed_in_linear_light(draw):
    builder = Builder()
    for depth, colour in ((-0.2, (0.0, 0.0, 1.0, 1.0)), (0.0, (0.0, 1.0, 0.0, 0.5)), (0.2, (1.0, 0.0, 0.0, 0.5))):
        builder.mesh(QUAD[0] + np.float32([0, 0, depth]), QUAD[1], unlit(*colour, alphaMode="BLEND"))
    np.testing.assert_allclose(draw(builder)[0, 32, 32], [*(srgb(np.array([0.5, 0.25, 0.25])) * 255), 255], atol=1)


CORNERS = np.array(
    [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]]
)  # upper left, upper right; lower left, lower right
TURNED = {"rotation": np.pi / 2, "offset": [0, 1]}  # counter-clockwise: u' = v, v' = 1 - u


@pytest.mark.parametrize(
    "transform, sampler, expected",
    [
        (None, {}, CORNERS),
        ({"offset": [0.5, 0]}, {}, CORNERS[:, ::-1]),
        ({"scale": [1, -1]}, {}, CORNERS[::-1]),
        ({"offset": [1, 0]}, {"wrapS": 33071}, CORNERS[:, [1, 1]]),
        ({"offset": [1, 0]}, {"wrapS": 33648}, CORNERS[:, ::-1]),
        (TURNED, {}, np.rot90(CORNERS, -1)),  # the image goes clockwise
    ],
)
def test_a_textures_corners_are_where_they_belong(draw, transform, sampler, expected):
    builder = Builder()
    info = builder.texture(CORNERS, **({"magFilter": 9728} | sampler))
    if transform:
        info["extensions"] = {"KHR_texture_transform": transform}
    builder.mesh(*QUAD, unlit(1, 1, 1, pbr={"baseColorTexture": info}), uv=QUAD_UV)
    (view,) = draw(builder)
    np.testing.assert_array_equal(view[np.ix_([24, 40], [24, 40])][..., :3], expected)


def test_a_normal_map_leans_the_light(draw):
    builder = Builder()
    info = builder.texture([[[230, 128, 180], [26, 128, 180]], [[128, 230, 180], [128, 26, 180]]], magFilter=9728)
    builder.mesh(*QUAD, {"pbrMetallicRoughness": MATT, "normalTexture": info}, uv=QUAD_UV)
    right, left, up, down = draw(builder, environment=lamp(FRONT + 70, 0))[0][
        [24, 24, 40, 40], [24, 40, 24, 40], 0
    ].astype(int)
    assert right > up + 20 and right > down + 20 and left + 20 < min(up, down)
    right, left, up, down = draw(builder, environment=lamp(FRONT, 70))[0][[24, 24, 40, 40], [24, 40, 24, 40], 0].astype(
        int
    )
    assert up > right + 20 and up > left + 20 and down + 20 < min(left, right)


@pytest.mark.parametrize("normals", [None, np.float32([[0, 0, 1]] * 4)])
@pytest.mark.parametrize("skinned", [False, True])
def test_a_mirrored_node_looks_like_its_mirror_image(draw, normals, skinned):
    views = []
    for side in (1, -1):
        builder = Builder()
        info = builder.texture([[[230, 128, 180], [26, 128, 180]], [[128, 230, 180], [128, 26, 180]]])
        material = {"pbrMetallicRoughness": MATT | {"baseColorFactor": [0.3, 0.3, 0.3, 1]}, "normalTexture": info}
        place = {"skin": 0} if skinned else {"scale": [side, 1, 1]}
        primitive = builder.mesh(*QUAD, material, normals, QUAD_UV, **place)
        if skinned:
            primitive["attributes"]["JOINTS_0"] = builder.accessor([[0] * 4] * 4, np.uint8)
            primitive["attributes"]["WEIGHTS_0"] = builder.accessor([[1, 0, 0, 0]] * 4)
            builder.tree |= {"skins": [{"joints": [1]}]}
            builder.tree["nodes"].append({"scale": [side, 1, 1]})
        views.append(draw(builder, environment=lamp(FRONT + side * 50, 20))[0].astype(int))
    plain, mirrored = views
    assert np.ptp(plain[32, 20:44, 0]) > 30
    np.testing.assert_allclose(mirrored[:, ::-1], plain, atol=2)


def test_emission_shows_in_the_dark(draw):
    builder = Builder()
    glow = {
        "emissiveFactor": [0.1, 0.2, 0.3],
        "extensions": {"KHR_materials_emissive_strength": {"emissiveStrength": 2}},
    }
    builder.mesh(*QUAD, glow)
    (view,) = draw(builder, environment=np.zeros((32, 64, 3), np.float32))
    np.testing.assert_allclose(view[32, 32, :3], srgb(np.array([0.2, 0.4, 0.6])) * 255, atol=1)


def test_vertex_colours_and_morphs_and_skins_are_drawn(draw):
    builder = Builder()
    primitive = builder.mesh(*QUAD, unlit(1, 1, 1))
    primitive["attributes"]["COLOR_0"] = builder.accessor([[1, 0, 0, 1], [1, 0, 0, 1], [0, 0, 1, 1], [0, 0, 1, 1]])
    plain = draw(builder)[0]
    assert plain[32, 18, 0] > plain[32, 18, 2] and plain[32, 46, 2] > plain[32, 46, 0]
    primitive["targets"] = [{"POSITION": builder.accessor(QUAD[0] * [0, -0.5, 0])}]
    builder.tree["meshes"][0]["weights"] = [1]
    flat = draw(builder)[0]
    assert not flat[16, 32, 3] and plain[16, 32, 3] and flat[32, 32, 3]

    builder = Builder()
    primitive = builder.mesh(
        *QUAD, unlit(1, 1, 1), skin=0, translation=[50, 0, 0]
    )  # a skinned node's own place does not count
    primitive["attributes"]["JOINTS_0"] = builder.accessor([[0, 0, 0, 0]] * 2 + [[1, 0, 0, 0]] * 2, np.uint8)
    primitive["attributes"]["WEIGHTS_0"] = builder.accessor([[1, 0, 0, 0]] * 4)
    builder.tree["skins"] = [{"joints": [1, 2]}]
    builder.tree["nodes"] += [{"scale": [1, 0.5, 1]}, {"scale": [1, 0.5, 1], "translation": [2, 0, 0]}]
    expected = outline(to_world(QUAD[0] * [2, 0.5, 1]), camera_to_world(FRONT, 0, orbit_distance()))
    np.testing.assert_array_equal(draw(builder)[0][..., 3] > 127, expected)


UNABLE = {
    "KHR_draco_mesh_compression": {"extensionsRequired": ["KHR_draco_mesh_compression"]},
    "EXT_meshopt_compression": {"extensionsUsed": ["EXT_meshopt_compression"]},
    "KHR_texture_basisu": {"extensionsUsed": ["KHR_texture_basisu"]},
    "EXT_mesh_gpu_instancing": {"extensionsUsed": ["EXT_mesh_gpu_instancing"]},
    "VENDOR_unheard_of": {"extensionsUsed": ["VENDOR_unheard_of"]},
    "KHR_materials_transmission": {"material": {"transmissionFactor": 0.5}},
    "KHR_materials_clearcoat": {"material": {"clearcoatFactor": 1}},
    "KHR_materials_sheen": {"material": {"sheenColorFactor": [0, 0.1, 0]}},
    "points or lines": {"mode": 1},
    "more than two sets of texture coordinates": {"texCoord": 2},
}


@pytest.mark.parametrize("feature", UNABLE)
def test_what_cannot_be_drawn_right_is_refused_by_name(draw, feature, no_decoders):
    builder = Builder()
    change = dict(UNABLE[feature])
    material = {"extensions": {feature: change.pop("material")}} if "material" in change else {}
    if "texCoord" in change:
        material = {"emissiveTexture": builder.texture([[[0, 0, 0]]]) | {"texCoord": change.pop("texCoord")}}
    primitive = builder.mesh(*QUAD, material)
    primitive |= {"mode": change.pop("mode")} if "mode" in change else {}
    builder.tree |= change
    assert feature in draw(builder)


def test_an_extension_without_effect_demands_nothing():
    builder = Builder()
    builder.mesh(*QUAD, {"extensions": {"KHR_materials_transmission": {"transmissionFactor": 0}}})
    builder.tree["extensionsUsed"] = ["KHR_materials_transmission", "KHR_lights_punctual"]
    assert demands(builder.tree) == {"alpha OPAQUE"}


@pytest.mark.parametrize("kind", ["nodes", "meshes", "textures"])
def test_an_extension_that_the_file_does_not_announce_is_seen(draw, kind):
    builder = Builder()
    builder.mesh(*QUAD, unlit(1, 1, 1, pbr={"baseColorTexture": builder.texture([[[0, 0, 0]]])}), uv=QUAD_UV)
    builder.tree[kind][0]["extensions"] = {"EXT_mesh_gpu_instancing": {}}
    assert "EXT_mesh_gpu_instancing" in draw(builder)


def test_a_refusal_names_the_renderer_that_draws_all_of_it(tmp_path, no_decoders):
    chance = np.random.default_rng(0)
    known = sorted(DRAWN_BY_BLENDER - mesh.DRAWN)
    for _ in range(60):
        names = list(chance.choice([*known, "EXT_meshopt_compression", "KHR_texture_basisu"], 3))
        builder = Builder()
        builder.mesh(*QUAD)
        builder.tree["nodes"][0]["extensions"] = {name: {} for name in names}
        with pytest.raises(Failure) as failure:
            mesh.load_mesh(builder.write(tmp_path / "asset.glb"), "y", 100)
        assert all(name in failure.value.reason for name in names)
        assert failure.value.reason.endswith("render.renderer=blender draws it") == (set(names) <= set(known))


class StandinDraco:
    """What DracoPy offers and draco.py uses. Its data is the place of a mesh in a list."""

    class FileTypeException(Exception):
        pass

    def __init__(self):
        self.meshes = []

    def encode(self, points, faces, quantization_bits, preserve_order, generic_attributes) -> bytes:
        arrays = generic_attributes | {len(generic_attributes) + 1: points}
        attributes = [{"unique_id": number, "attribute_type": 4, "data": data} for number, data in arrays.items()]
        attributes[-1]["attribute_type"] = 0
        by_id = {part["unique_id"]: part for part in attributes}
        mesh = types.SimpleNamespace(faces=faces, attributes=attributes, get_attribute_by_unique_id=by_id.get)
        self.meshes.append(mesh)
        return b"DRACO%03d" % (len(self.meshes) - 1)

    def decode(self, data):
        if data[:5] != b"DRACO":
            raise self.FileTypeException("Input mesh is not draco encoded")
        return self.meshes[int(data[5:])]


@pytest.fixture(params=["stand-in", "DracoPy"])
def dracopy(request, monkeypatch):
    if request.param == "DracoPy":
        return pytest.importorskip("DracoPy")
    monkeypatch.setitem(sys.modules, "DracoPy", StandinDraco())
    monkeypatch.setattr(draco, "is_installed", lambda: True)
    return sys.modules["DracoPy"]


def compressed(dracopy, builder: Builder, points, faces, material=None, **arrays) -> dict:
    """Add a Draco-compressed mesh. `arrays`: attributes by name."""
    generic = dict(enumerate(arrays.values(), start=1))
    data = dracopy.encode(points, np.uint32(faces), 16, preserve_order=True, generic_attributes=generic)
    primitive = builder.mesh(points, faces, material)
    for name, values in arrays.items():
        primitive["attributes"][name] = builder.accessor(values, values.dtype.type)
    for number in (*primitive["attributes"].values(), primitive["indices"]):
        del builder.tree["accessors"][number]["bufferView"]
    decoded = dracopy.decode(data)
    position = next(part["unique_id"] for part in decoded.attributes if part["attribute_type"] == 0)
    ids = {"POSITION": position} | dict(zip(arrays, generic))
    primitive["extensions"] = {draco.EXTENSION: {"bufferView": builder.view(data), "attributes": ids}}
    builder.tree["extensionsRequired"] = [draco.EXTENSION]
    return primitive


def test_a_compressed_mesh_looks_like_the_same_one_uncompressed(draw, dracopy):
    points, faces, normals = sphere(rings=12)
    colour = np.uint8(np.column_stack([(normals + 1) * 127, np.full(len(normals), 255)]))
    matt = {"pbrMetallicRoughness": MATT}
    views = []
    for packed in (False, True):
        builder = Builder()
        if packed:
            primitive = compressed(dracopy, builder, points, faces, matt, NORMAL=normals, COLOR_0=colour)
        else:
            primitive = builder.mesh(points, faces, matt, normals)
            primitive["attributes"]["COLOR_0"] = builder.accessor(colour, np.uint8)
        builder.tree["accessors"][primitive["attributes"]["COLOR_0"]]["normalized"] = True
        views.append(draw(builder, [20, 200], 10, environment=lamp(60, 30)).astype(int))
    plain, unpacked = views
    assert np.ptp(plain[..., 0]) > 100 and np.abs(plain - unpacked).mean() < 0.5


def test_compressed_data_that_is_damaged_or_holds_more_than_it_announces_is_refused(draw, dracopy):
    builder = Builder()
    primitive = compressed(dracopy, builder, *sphere(rings=6)[:2])
    place = builder.tree["accessors"][primitive["attributes"]["POSITION"]]
    place["count"] -= 1
    assert draw(builder, samples=1) == "its Draco data holds another POSITION than it announces"
    place["count"] += 1
    view = builder.tree["bufferViews"][primitive["extensions"][draco.EXTENSION]["bufferView"]]
    start = view["byteOffset"]
    builder.data = builder.data[:start] + b"DRAGON" + builder.data[start + 6 :]
    assert draw(builder, samples=1) == "its Draco data is damaged"


def test_without_the_decoder_the_package_and_the_other_renderer_are_named(draw, no_decoders):
    builder = Builder()
    builder.mesh(*QUAD)
    builder.tree["extensionsRequired"] = [draco.EXTENSION]
    expected = f"not drawn: {draco.EXTENSION}; `pip install DracoPy` or render.renderer=blender draws it"
    assert draw(builder) == expected


def encode_standin(pixels: np.ndarray) -> bytes:
    """A head as KTX2's, and a PNG behind it."""
    height, width, _ = pixels.shape
    return ktx2.IDENTIFIER + bytes(8) + width.to_bytes(4, "little") + height.to_bytes(4, "little") + png(pixels)


def decode_standin(data: bytes, format: str) -> tuple[bytes, str]:
    if data[28:36] != b"\x89PNG\r\n\x1a\n":
        raise RuntimeError("transcoding failed")
    return data[28:], f"image/{format}"


@pytest.fixture(params=["stand-in", "alktx2"])
def encode_ktx2(request, monkeypatch):
    """Return what makes a KTX2 file of h w 3 pixels."""
    if request.param == "alktx2":
        package = pytest.importorskip("alktx2")
        return lambda pixels: package.encode_bytes_to_ktx2(png(pixels), mime="image/png", codec="uastc", quality=80)
    monkeypatch.setitem(sys.modules, "alktx2", types.SimpleNamespace(decode_ktx2_to_bytes=decode_standin))
    monkeypatch.setattr(ktx2, "is_installed", lambda: True)
    return encode_standin


def with_ktx2(builder: Builder, data: bytes) -> dict:
    """Add a quad with a KTX2 texture, and return the texture's image."""
    info = builder.texture(np.zeros((1, 1, 3)))
    builder.mesh(*QUAD, unlit(1, 1, 1, pbr={"baseColorTexture": info}), uv=QUAD_UV)
    texture = builder.tree["textures"][info["index"]]
    texture["extensions"] = {ktx2.EXTENSION: {"source": texture.pop("source")}}
    builder.tree["extensionsRequired"] = [ktx2.EXTENSION]
    image = builder.tree["images"][0]
    image |= {"bufferView": builder.view(data), "mimeType": "image/ktx2"}
    return image


def test_a_ktx2_texture_looks_like_the_same_one_as_png(draw, encode_ktx2):
    rows, columns = np.mgrid[:64, :64]
    pixels = np.uint8(np.stack([rows * 4, columns * 4, 255 - rows * 4], axis=-1))
    plain, packed = Builder(), Builder()
    info = plain.texture(pixels)
    plain.mesh(*QUAD, unlit(1, 1, 1, pbr={"baseColorTexture": info}), uv=QUAD_UV)
    with_ktx2(packed, encode_ktx2(pixels))
    expected, found = (draw(builder).astype(int) for builder in (plain, packed))
    assert np.ptp(expected[0, ..., 0]) > 100 and np.abs(expected - found).mean() < 1


def test_ktx2_data_that_is_damaged_or_too_large_is_refused(draw, encode_ktx2):
    whole = encode_ktx2(np.zeros((8, 8, 3), np.uint8))
    for damaged, reason in (
        (b"KTX 11" + whole[6:], "its KTX2 data is damaged"),
        (whole[:34], "its KTX2 data is damaged"),
        (whole[:20] + bytes(4) + whole[24:], "its KTX2 data is damaged"),
        (whole[:20] + (20_000).to_bytes(4, "little") + whole[24:], "announces 20000 x 8 pixels"),
    ):
        builder = Builder()
        with_ktx2(builder, damaged)
        assert reason in draw(builder, samples=1)


def test_without_its_decoder_a_ktx2_texture_is_refused_with_the_package(draw, no_decoders):
    builder = Builder()
    with_ktx2(builder, b"")
    assert draw(builder) == f"not drawn: {ktx2.EXTENSION}; `pip install alktx2` draws it"


def test_damage_is_refused_with_the_reason(draw, tmp_path):
    builder = Builder()
    info = builder.texture(np.arange(3072).reshape(32, 32, 3) % 255)
    builder.mesh(*QUAD, unlit(1, 1, 1, pbr={"baseColorTexture": info}), uv=QUAD_UV)
    whole = builder.write(tmp_path / "asset.glb").read_bytes()
    for damaged in (
        b"",
        b"glTF",
        b"no glTF at all",
        whole[: len(whole) // 2],
        whole[:-200],
        whole[: -len(builder.data)],
    ):
        (tmp_path / "damaged.glb").write_bytes(damaged)
        assert isinstance(draw(tmp_path / "damaged.glb"), str)
    builder.tree["images"] = [{"uri": "../other/texture.png"}]
    assert "outside its folder" in draw(builder)
    builder.tree["images"] = [{"uri": "missing.png"}]
    assert "missing.png" in draw(builder)
    assert "no triangles" in draw(Builder())


def test_damage_names_the_part_and_our_own_mistakes_are_none(draw, monkeypatch):
    builder = Builder()
    primitive = builder.mesh(QUAD[0], [[0, 1, 99]], {})
    assert draw(builder) == "the mesh of node 0 is damaged or incomplete"
    primitive["material"] = 7
    assert "its JSON" in draw(builder)
    builder = Builder()
    builder.mesh(*QUAD, unlit(1, 1, 1, pbr={"baseColorTexture": {"index": 0}}), uv=QUAD_UV)
    assert "the texture of a baseColorTexture" in draw(builder)
    monkeypatch.setattr(mesh, "_attributes", lambda *_: np.zeros(3)[7])
    with pytest.raises(IndexError):
        draw(builder)


def test_sparse_strided_and_quantised_data_are_read(tmp_path):
    builder = Builder()
    values = builder.accessor(np.zeros((3, 2)))
    places = builder.view(np.uint8([2]).tobytes())
    changes = builder.view(np.float32([[5, 6]]).tobytes())
    builder.tree["accessors"][values]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": places, "componentType": 5121},
        "values": {"bufferView": changes},
    }
    fractions = builder.accessor([[255, 9], [0, 9], [51, 9]], np.uint8)
    builder.tree["accessors"][fractions] |= {"type": "SCALAR", "normalized": True}
    builder.tree["bufferViews"][builder.tree["accessors"][fractions]["bufferView"]]["byteStride"] = 2
    gltf = Gltf(builder.write(tmp_path / "asset.glb").read_bytes(), tmp_path)
    np.testing.assert_array_equal(gltf.accessor(values), [[0, 0], [0, 0], [5, 6]])
    np.testing.assert_allclose(gltf.accessor(fractions), [[1], [0], [0.2]])


def write_in_every_format(folder, points) -> list:
    """Write the cube's faces over these points, without normals, as .obj, .ply and .stl."""
    rows = "".join("f {} {} {}\n".format(*np.add(face, 1)) for face in CUBE_FACES)
    (folder / "asset.obj").write_text("".join("v {} {} {}\n".format(*point) for point in points) + rows)
    header = "ply\nformat ascii 1.0\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
    header += "property uchar red\nproperty uchar green\nproperty uchar blue\n"
    header += "element face 12\nproperty list uchar int vertex_indices\nend_header\n"
    rows = "".join("{} {} {} 200 100 50\n".format(*point) for point in points)
    rows += "".join("3 {} {} {}\n".format(*face) for face in CUBE_FACES)
    (folder / "asset.ply").write_text(header + rows)
    facets = b"".join(np.float32([[0, 0, 0], *points[face]]).tobytes() + b"\0\0" for face in CUBE_FACES)
    (folder / "asset.stl").write_bytes(b"\0" * 80 + struct.pack("<I", 12) + facets)
    return [folder / f"asset.{suffix}" for suffix in ("obj", "ply", "stl")]


@pytest.mark.parametrize("axis", ["y", "z"])
def test_every_format_stands_on_the_axis_that_it_is_told(draw, tmp_path, axis):
    points = CUBE * np.float32([0.3, 1, 0.5])  # tall in y
    builder = Builder()
    builder.mesh(points, CUBE_FACES)
    (expected,) = draw(builder, [30], 20)[..., 3]
    stored = points if axis == "y" else points @ np.float32([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    for path in write_in_every_format(tmp_path, stored):
        (view,) = draw(path, [30], 20, up_axis=axis)
        np.testing.assert_allclose(view[..., 3], expected, atol=64)
        red, green, blue = view[32, 32, :3].astype(int)
        assert (red > green > blue) if path.suffix == ".ply" else (red == green == blue > 100)


def test_what_is_usual_is_up_unless_it_is_said_and_gltf_says_it_itself():
    usual = {".glb": "y", ".GLTF": "y", ".obj": "y", ".ply": "z", ".stl": "z"}
    for suffix, axis in usual.items():
        assert up_axis(Path(f"asset{suffix}"), "auto") == axis
        for wanted in ("y", "z"):
            assert up_axis(Path(f"asset{suffix}"), wanted) == ("y" if suffix in (".glb", ".GLTF") else wanted)


OBJ = "v -1 1 0\nv -1 -1 0\nv 1 -1 0\nv 1 1 0\nvt 0 1\nvt 0 0\nvt 1 0\nvt 1 1\n"
OBJ_FACES = "usemtl paint\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"


@pytest.fixture
def draw_obj(draw, tmp_path):
    """Return a function that draws a square with these lines in its .mtl: a view, or the reason why not."""
    (tmp_path / "texture.png").write_bytes(png(CORNERS.repeat(8, 0).repeat(8, 1)))

    def run(lines, text=f"mtllib asset.mtl\n{OBJ}{OBJ_FACES}", environment=None):
        (tmp_path / "asset.obj").write_text(text)
        (tmp_path / "asset.mtl").write_text(f"newmtl paint\n{lines}\n")
        drawn = draw(tmp_path / "asset.obj", environment=environment)
        return drawn if isinstance(drawn, str) else drawn[0]

    return run


def test_an_obj_has_its_texture_and_is_refused_for_what_else_its_mtl_asks(draw_obj):
    seen = draw_obj("Kd 0.2 0.2 0.2\nd 1.0\nmap_Kd texture.png")[np.ix_([20, 44], [20, 44])][..., :3]
    assert (seen.argmax(axis=-1) == [[0, 1], [2, 0]]).all() and seen[0, 0, 0] > 200
    lines = [
        "map_Bump texture.png",
        "d 5e-1",
        "d -halo 0.2",
        "Tr\t0.9",
        "Ke 1 1 1",
        "Pm 1",
        "Tf 0.2 0.2 0.2",
        "illum 4",
    ]
    for line in (*lines, "map_Kd -s 2 2 1 texture.png", "map_Kd -clamp on texture.png", "MAP_KD texture.png", "Kd 1"):
        assert f".mtl says of {line.split()[0]}" in draw_obj(f"Kd 1 1 1\n{line}")
    assert "without texture coordinates" in draw_obj("map_Kd texture.png", f"{OBJ}usemtl paint\nf 1 2 3\n")
    assert "before the first usemtl" in draw_obj("Kd 1 0 0", f"{OBJ}f 2 3 4\n{OBJ_FACES}")


def test_an_obj_is_no_metal_but_matt_as_the_same_gltf(draw, draw_obj):
    builder = Builder()
    colour = [0.8, 0.4, 0.2]
    light = lamp(FRONT + 30, 20)
    matt = {"extensions": {"KHR_materials_specular": {"specularFactor": 0}}}
    builder.mesh(*QUAD, {"pbrMetallicRoughness": MATT | {"baseColorFactor": [*colour, 1]}} | matt)
    (expected,) = draw(builder, environment=light)
    assert expected[32, 32, 0] > expected[32, 32, 2] + 50
    np.testing.assert_array_equal(draw_obj("Kd 0.8 0.4 0.2", environment=light), expected)


def test_an_objs_materials_are_found_by_name_in_every_mtl_or_it_is_plain(draw_obj, tmp_path):
    red = draw_obj("Kd 1 0 0")
    assert (red[32, 32] == [255, 0, 0, 255]).all()
    (tmp_path / "other.mtl").write_text("newmtl other\nKd 0 1 0\n")
    unnamed = OBJ + OBJ_FACES  # asset.mtl lies beside asset.obj
    indented = f"  mtllib other.mtl\n\tmtllib asset.mtl\n{OBJ}# usemtl other\n  usemtl\tpaint \nf 1 2 3 4\n"
    for text in (unnamed, indented, f"mtllib other.mtl asset.mtl\n{OBJ}{OBJ_FACES}"):
        np.testing.assert_array_equal(draw_obj("Kd 1 0 0", text), red)
    plain = draw_obj("Kd 1 0 0", f"{OBJ}f 1 2 3 4\n")
    assert len({*plain[32, 32, :3]}) == 1 and plain[32, 32, 0] > 200
    np.testing.assert_array_equal(draw_obj("Kd 1 0 0", f"{OBJ}usemtl unheard of\nf 1/1 2/2 3/3 4/4\n"), plain)


CORNERS_OF_U = "0 0 0\n3 0 0\n3 3 0\n2 3 0\n2 1 0\n1 1 0\n1 3 0\n0 3 0\n"
U_OBJ = re.sub("^(?=.)", "v ", CORNERS_OF_U, flags=re.M)
U_PLY = (
    "ply\nformat ascii 1.0\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
    f"element face 1\nproperty list uchar int vertex_index\nend_header\n{CORNERS_OF_U}"
)


def test_a_face_with_a_dent_is_refused_unless_the_triangles_at_its_first_corner_fill_it(draw, tmp_path):
    def drawn(name, text):
        (tmp_path / name).write_text(text)
        return draw(tmp_path / name)

    u_obj, u_ply = drawn("u.obj", f"{U_OBJ}f 1 2 3 4 5 6 7 8\n"), drawn("u.ply", f"{U_PLY}8 0 1 2 3 4 5 6 7\n")
    assert u_obj == u_ply == "not drawn: a face with a dent, which would be filled; render.renderer=blender draws it"
    triangles = drawn("l3.obj", f"{U_OBJ}f 5 4 3\nf 5 3 2\nf 5 2 1\nf 5 1 6\n")[0]
    for name, text in (
        ("l.obj", f"{U_OBJ}f 5 4 3 2 1 6\n"),
        ("r.obj", f"{U_OBJ}f -4 -5 -6 -7 -8 -3  # the same\n"),
        ("l.ply", f"{U_PLY}6 4 3 2 1 0 5\n"),
    ):
        np.testing.assert_array_equal(drawn(name, text)[0], triangles)


@pytest.mark.parametrize("element", ["", "element face 0\nproperty list uchar int vertex_indices\n"])
def test_a_ply_of_points_alone_is_no_damaged_file(draw, tmp_path, element):
    properties = "property float x\nproperty float y\nproperty float z\n"
    text = f"ply\nformat ascii 1.0\nelement vertex 8\n{properties}{element}end_header\n{CORNERS_OF_U}"
    (tmp_path / "points.ply").write_text(text)
    assert draw(tmp_path / "points.ply") == "not drawn: points or lines"


def test_a_line_of_an_obj_may_go_on_and_a_face_without_area_is_nobodys_dent(draw, tmp_path):
    views = []
    collinear = "v .1 .1 0\nv .2 .2 0\nv .3 .3 0\nv .7 .7 0\nf 9 10 11 12\n"
    for text in ("f 1 2 3 8\n", "f 1 2 \\\n 3 8\n", "f -8 -7\\\n-6 -1\n"):
        (tmp_path / "asset.obj").write_text(U_OBJ + text)
        views.append(draw(tmp_path / "asset.obj"))
    for view in views[1:]:
        np.testing.assert_array_equal(view, views[0])
    (tmp_path / "asset.obj").write_text(f"{U_OBJ}f 1 2 3 8\n{collinear}")
    assert (draw(tmp_path / "asset.obj") != views[0]).mean() < 0.01
    (tmp_path / "asset.obj").write_text(U_OBJ + "f 1 2 3 4 5 6 \\\n7 8\n")
    assert "a face with a dent" in draw(tmp_path / "asset.obj")


def test_corners_that_count_back_do_so_from_their_own_line(draw, tmp_path):
    square = "vt 0 0\nv {x} 0 0\nv {x} 1 0\nv {x} 1 1\nv {x} 0 1\n"
    back = "".join(square.format(x=x) + "f -4/-1 -3/-1 -2/-1 -1/-1\n" for x in (0, 2))
    forth = "".join(square.format(x=x) for x in (0, 2)) + "f 1/1 2/1 3/1 4/1\nf 5/2 6/2 7/2 8/2\n"
    views = []
    for text in (back, forth):
        (tmp_path / "asset.obj").write_text(text)
        views.append(draw(tmp_path / "asset.obj")[0])
    np.testing.assert_array_equal(*views)
    (tmp_path / "asset.obj").write_text(square.format(x=0) + "f -1 -2 -5\n")
    assert "the face f -1 -2 -5 is damaged" in draw(tmp_path / "asset.obj")


@pytest.mark.parametrize("same", [False, True])
def test_faces_on_each_other_are_refused_if_their_materials_differ(draw, same):
    builder = Builder()
    positions, *rest = QUAD
    builder.mesh(positions, *rest, unlit(1, 0, 0))
    builder.mesh(positions, *rest, unlit(0, 0, 1))
    if same:
        builder.tree["meshes"][1]["primitives"][0]["material"] = 0
        assert (draw(builder)[0][32, 32] == [255, 0, 0, 255]).all()
    else:
        assert draw(builder) == "faces that lie on each other, with different materials"


def test_the_worker_runs_from_anywhere_and_a_missing_library_is_one_line(tmp_path, monkeypatch):
    builder = Builder()
    builder.mesh(*QUAD)
    asset = builder.write(tmp_path / "asset.glb")
    views = tmp_path / "views"
    sky = tmp_path / "sky.npy"
    views.mkdir()
    np.save(sky, np.ones((32, 64, 3), np.float32))
    camera = camera_to_world(FRONT, 0, orbit_distance()).tolist()
    (tmp_path / "job.json").write_text(
        to_json(Job(str(asset), str(views), [camera], 33.8, 16, 1, str(sky), "cpu", "y"))
    )
    subprocess.run([*quick.command(""), str(tmp_path / "job.json")], cwd=tmp_path, check=True)
    assert json.loads((views / "result.json").read_text())["refused"] is None and (views / "000.png").exists()
    with pytest.raises(UserError, match="'/bin/blender' is without effect"):
        quick.command("/bin/blender")
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(UserError, match=r"trimesh.*pip install embreex trimesh"):
        quick.command("")
