"""What is refused before a renderer sees it."""

import base64
import json
import os
from pathlib import Path

import pytest

from rendering.failure import Failure
from rendering.queue.assets import AssetFolder
from rendering.safety.asset import check_asset
from rendering.safety.companions import obj_libraries, resolve_uri, shared_library_lines
from tests.helpers.make_assets import box, gltf, make_bad, make_good, texture

LIMIT = 1 << 20


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assets")
    return folder, make_good(folder / "good"), make_bad(folder / "bad")


def test_good_assets_of_every_format_pass(folders):
    folder, _, _ = folders
    for asset in AssetFolder(folder / "good").assets:
        check_asset(folder / "good" / asset.source, LIMIT)


def test_every_bad_file_is_a_failure_with_its_reason(folders):
    folder, _, reasons = folders
    for name, reason in reasons.items():
        with pytest.raises(Failure) as failure:
            check_asset(folder / "bad" / name.replace(" ", "."), LIMIT)
        assert (
            failure.value.kind == ("refused" if reason.startswith("not drawn") else "unreadable")
            and reason in failure.value.reason
        ), name
        assert "\n" not in failure.value.reason


def test_the_size_limit_is_for_an_asset_with_its_textures(folders):
    folder, _, _ = folders
    path = folder / "good/shelf.obj"
    files = [path, path.with_suffix(".mtl"), path.with_name("shelf wood.png")]
    size = sum(file.stat().st_size for file in files)
    check_asset(path, size)
    with pytest.raises(Failure, match=r"more than render\.max_asset_mib"):
        check_asset(path, size - 1)


def test_a_texture_of_a_scan_that_lies_beside_its_meshes_is_said_to_lie_there(tmp_path):
    """Google Scanned Objects are downloaded so. Nothing outside the asset's folder is read."""
    for place in ("meshes", "materials/textures"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "meshes/model.obj").write_text("mtllib model.mtl\nv 0 0 0\n")
    (tmp_path / "meshes/model.mtl").write_text("newmtl a\nmap_Kd texture.png\n")
    (tmp_path / "materials/textures/texture.png").write_bytes(texture(0))
    with pytest.raises(Failure, match=r"in \.\./materials/textures: copy it beside the \.obj"):
        check_asset(tmp_path / "meshes/model.obj", LIMIT)
    (tmp_path / "meshes/texture.png").symlink_to("../materials/textures/texture.png")
    with pytest.raises(Failure, match="copy it beside"):
        check_asset(tmp_path / "meshes/model.obj", LIMIT)
    (tmp_path / "meshes/texture.png").unlink()
    (tmp_path / "meshes/texture.png").write_bytes(texture(0))
    check_asset(tmp_path / "meshes/model.obj", LIMIT)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("map_Kd ../a.png", "outside"),
        ("map_Bump -bm 0.3 C:\\\\textures\\\\a.png", "outside"),
        ("map_Kd -o 1 -s 2 2 2 -clamp on a b.png", "'a b.png', which is missing"),
        ("  MAP_KS ..\\\\..\\\\a.png", "outside"),
        ("refl -type sphere /a.png", "'/a.png', which is outside"),
    ],
)
def test_textures_of_an_mtl_are_found_behind_their_options(line, reason, tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nmtllib a.mtl\n")
    (tmp_path / "a.mtl").write_text(f"newmtl a\n{line}\n")
    with pytest.raises(Failure, match=reason):
        check_asset(tmp_path / "a.obj", LIMIT)


def test_an_objs_libraries_are_those_it_names_and_the_one_beside_it(tmp_path):
    for name in ("a.mtl", "b.mtl", "c d.mtl", "thing.mtl"):
        (tmp_path / name).write_text("")
    path = tmp_path / "thing.obj"
    path.write_bytes(b"v 0 0 0\n mtllib b.mtl\r\nmtllib a.mtl b.mtl\n\tmtllib \\\n c d.mtl\n#mtllib e.mtl\nmtllibs f\n")
    assert [library.name for library in obj_libraries(path)] == ["b.mtl", "a.mtl", "c d.mtl", "thing.mtl"]
    assert shared_library_lines(path) == ["a.mtl b.mtl"]
    check_asset(path, LIMIT)


@pytest.mark.parametrize("uri", ["DATA:image/png;BASE64,", "data:image/png;base64,", "Data:;base64,"])
def test_data_uris_are_told_by_their_scheme_in_any_case(uri, tmp_path):
    assert resolve_uri(tmp_path, uri + base64.b64encode(texture(0)).decode()) == texture(0)
    tree, data = gltf(box(1, 1, 1), texture(0), uri + "9" * 5000)
    tree["buffers"][0]["uri"] = uri + base64.b64encode(data).decode()
    (tmp_path / "a.gltf").write_text(json.dumps(tree))
    with pytest.raises(Failure) as failure:
        check_asset(tmp_path / "a.gltf", LIMIT)
    assert failure.value.reason in ("image 0 is no image of a known kind", "a data URI that is not base64")


def test_data_uris_are_held_against_what_they_announce(tmp_path):
    tree, data = gltf(box(1, 1, 1), texture(0))
    tree["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
    tree["images"][0] = {"uri": "data:image/png;base64," + base64.b64encode(texture(0)).decode()}
    (tmp_path / "a.gltf").write_text(json.dumps(tree))
    check_asset(tmp_path / "a.gltf", LIMIT)
    tree["buffers"][0]["byteLength"] += 1
    (tmp_path / "a.gltf").write_text(json.dumps(tree))
    with pytest.raises(Failure, match="buffer 0 announces"):
        check_asset(tmp_path / "a.gltf", LIMIT)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.glb")
    with pytest.raises(Failure, match="not a regular file"):
        check_asset(tmp_path / "pipe.glb", LIMIT)


def test_the_generated_assets_are_the_same_each_time(folders, tmp_path):
    folder, _, _ = folders
    make_good(tmp_path)
    for path in Path(folder / "good").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder / "good")).read_bytes()
