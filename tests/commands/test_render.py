"""`main.py render` with a stand-in for the renderer: what is written, what is not, and that kills and divisions leave no trace."""

import errno
import fcntl
import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
import urllib.error
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main
from commands.render import render
from dataset.records import Records
from rendering import orbits
from rendering.camera import orbit_distance
from rendering.extent import Placement
from rendering.light import environment_for
from rendering.queue.locks import SHEETS
from rendering.queue.output import Output, _number
from rendering.queue.process import Drawn
from rendering.queue.saved import FailureLine
from tests.helpers.launch import forked_launch, heed_terminal
from tests.helpers.make_assets import make_bad, make_good
from utils.camera import camera_to_world
from utils.config import load_config
from utils.errors import UserError
from utils.files import new_file, unfinished_path
from utils.held_out import held_out_of
from utils.jsonl import Lines
from utils.schemas_render import RenderConfig

STANDIN = [sys.executable, "-I", "-S", str(Path(__file__).parents[1] / "helpers/standin_worker.py")]
SMALL = ("render.renderer=standin", "render.size_px=32", "render.num_views=4", "render.time_limit_s=20")
NO_FILTER = ("filter.min_thickness=0", "filter.min_change=0")
ORBIT = '{"id": "x", "image_path": ["x/000.png"], "elevation": [3.0]}'
ENDLESS = 60  # seconds that no test should come near


def use_standin(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(orbits.RENDERERS, "standin", types.SimpleNamespace(command=lambda executable: STANDIN))
    patch.setattr(orbits, "environment_for", lambda seed, hdris: np.zeros((2, 4, 3), np.float32))  # it looks at none


@pytest.fixture(autouse=True)
def _standin(monkeypatch):
    use_standin(monkeypatch)
    for name in ("RANK", "WORLD_SIZE", "SLURM_ARRAY_TASK_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


def make(folder: Path, tasks: dict[str, str]) -> Path:
    for name, task in tasks.items():
        path = folder / f"{name}.stl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"solid {task}\nfacet\nendsolid {task}\n")
    return folder


def run(assets: Path, out: Path, *words: str) -> int:
    cfg = load_config(RenderConfig, [f"render.assets={assets}", f"render.out={out}", *SMALL, *NO_FILTER, *words])
    return render(cfg)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tree(out: Path) -> dict[str, bytes]:
    """All that a reader of the folder sees."""
    paths = (path for path in out.rglob("*") if path.is_file() and not path.relative_to(out).parts[0].startswith("."))
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


MIXED = {
    "a": "draws",
    "b/c": "crashes",
    "b/d": "draws",
    "e": "refuses",
    "f": "vanishes",
    "g": "burns",
    "h": "omits",
    "i": "draws",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run over MIXED that nobody disturbed: its assets, its output, its exit code."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        use_standin(patch)
        code = run(make(folder / "assets", MIXED), folder / "out")
    return folder / "assets", folder / "out", code


def test_every_asset_has_its_line_in_one_of_the_files(whole):
    _, out, code = whole
    assert code == 1
    rendered = lines(out / "svd_meta.jsonl")
    assert [line["id"] for line in rendered] == ["a", "b/d", "i"]
    assert rendered[1]["image_path"] == [f"b/d/{view:03d}.png" for view in range(4)]
    assert rendered[1]["source"] == "b/d.stl"
    assert all(-5 <= line["elevation"] <= 30 for line in lines(out / "failures.jsonl"))
    failed = {line["id"]: (line["kind"], line["reason"]) for line in lines(out / "failures.jsonl")}
    assert failed == {
        "b/c": ("crashed", "exit code 1: ValueError: broken triangle 7 of part"),
        "e": ("refused", "cannot draw velvet"),
        "f": ("filtered", "empty: no view shows anything"),
        "g": ("filtered", "over-exposed: 1.000 of its pixels are white, more than 0.5"),
        "h": ("crashed", "drew 3 of 4 views: 003.png is missing or damaged"),
    }


def test_the_trainer_reads_what_was_written(whole):
    _, out, _ = whole
    records = Records(str(out / "svd_meta.jsonl"), num_frames=4)
    assert [records[index].id for index in range(len(records))] == ["a", "b/d", "i"]
    for path in records[0].image_paths:
        assert Image.open(out / path).mode == "RGBA"
    elevations = {elevation for index in range(3) for elevation in records[index].elevations_deg}
    assert len(elevations) == 3 and all(-5 <= elevation <= 30 for elevation in elevations)


def test_the_cameras_stand_beside_the_views_with_what_brought_the_object_into_the_world(whole):
    _, out, _ = whole
    cameras = json.loads((out / "i/transforms.json").read_text())
    assert cameras["renderer"] == "standin"
    assert cameras["object"] == {"up_axis": "z", "centre": [1.0, 2.0, 3.0], "scale": 0.25, "box": [0.9, 0.4, 0.2]}
    line = next(line for line in lines(out / "svd_meta.jsonl") if line["id"] == "i")
    assert [f"i/{frame['file_path']}" for frame in cameras["frames"]] == line["image_path"]
    assert cameras["w"] == 32
    expected = camera_to_world(90, line["elevation"][0], orbit_distance())
    assert np.allclose(cameras["frames"][1]["transform_matrix"], expected)


def test_sheets_show_accepted_and_rejected_orbits(whole):
    _, out, _ = whole
    accepted, rejected = (np.asarray(Image.open(out / name)) for name in ("accepted.png", "rejected.png"))
    assert accepted.shape[0] == 3 * 98 and rejected.shape[0] == 2 * 98
    assert (accepted[48, 330:] != 255).any() and (rejected[:98, 330:] == 255).all(), "an empty object, on white"


def test_nothing_is_left_lying_around(whole):
    _, out, _ = whole
    assert not list((out / ".rendering").iterdir())
    hidden = {path.name for path in out.iterdir() if path.name.startswith(".")}
    assert hidden == {".lock", ".rendering", ".rejected"}


def test_again_it_has_nothing_to_do_and_says_alike_that_some_failed(whole, monkeypatch, tmp_path, capsys):
    assets, out, _ = whole
    monkeypatch.setenv("STANDIN_LOG", str(tmp_path / "log"))
    before = tree(out)
    assert run(assets, out) == 1
    assert tree(out) == before and not (tmp_path / "log").exists()
    expected = "3 rendered, 2 filtered, 3 failed (crashed 2, refused 1) of 8 objects; nothing to do"
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize("division", [[{}], [{"RANK": str(rank), "WORLD_SIZE": "3"} for rank in (2, 0, 1)]])
def test_neither_threads_nor_shares_nor_their_order_change_a_byte(division, whole, tmp_path, monkeypatch):
    assets, out, _ = whole
    for environment in division:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        run(assets, tmp_path / "out", "render.num_processes=3")
    assert tree(tmp_path / "out") == tree(out)


def test_filtered_objects_are_no_failures(tmp_path):
    assets = make(tmp_path / "assets", {"a": "draws", "b": "vanishes", "c": "lies"})
    assert run(assets, tmp_path / "out", "render.sheet_rows=0", "filter.min_thickness=0.03") == 0
    failed = lines(tmp_path / "out/failures.jsonl")
    assert [line["kind"] for line in failed] == ["filtered", "filtered"]
    assert failed[1]["reason"] == "flat: its thickness is 0.003 of its width, less than 0.03", "as the renderer says"
    assert not (tmp_path / "out/accepted.png").exists()


def test_one_object_in_two_formats_is_rendered_once_and_the_other_file_is_named(tmp_path, capsys):
    assets = make(tmp_path / "assets", {"a": "draws"})
    shutil.copy(assets / "a.stl", assets / "a.ply")
    (assets / "a.ply").write_text("ply\nformat ascii 1.0\nelement vertex 0\nend_header\ndraws draws\n")
    assert run(assets, tmp_path / "out", "render.sheet_rows=0") == 0
    assert lines(tmp_path / "out/svd_meta.jsonl")[0]["source"] == "a.ply"
    assert "files left out, for their objects are there in a preferred format: 1 (a.stl)" in capsys.readouterr().out


def test_failures_are_rendered_again_only_when_asked(tmp_path, monkeypatch):
    assets = make(tmp_path / "assets", {"a": "draws", "b": "crashes"})
    assert run(assets, tmp_path / "out") == 1
    make(tmp_path / "assets", {"b": "draws"})  # the asset is mended
    assert run(assets, tmp_path / "out") == 1
    monkeypatch.setenv("STANDIN_LOG", str(tmp_path / "log"))
    assert run(assets, tmp_path / "out", "render.retry_failures=true") == 0
    assert (tmp_path / "log").read_text() == "b.stl\n" and not (tmp_path / "out/failures.jsonl").read_text()


def test_a_sheet_and_a_strip_go_with_what_they_showed(tmp_path):
    assets = make(tmp_path / "assets", {"a": "vanishes"})
    out = tmp_path / "out"
    run(assets, out)
    assert (
        (out / "rejected.png").exists() and not (out / "accepted.png").exists() and any((out / ".rejected").iterdir())
    )
    make(assets, {"a": "draws"})
    run(assets, out, "render.retry_failures=true")
    assert (out / "accepted.png").exists() and not (out / "rejected.png").exists()
    assert not any((out / ".rejected").iterdir())


def test_a_damaged_strip_and_a_removed_view_are_left_out_of_the_sheets(tmp_path):
    assets = make(tmp_path / "assets", dict.fromkeys("cd", "draws") | dict.fromkeys("efg", "vanishes"))
    out = tmp_path / "out"
    run(assets, out)
    before = [Image.open(out / name).height for name in ("accepted.png", "rejected.png")]
    (out / "c/000.png").unlink()
    strips = sorted((out / ".rejected").iterdir())
    strips[0].write_bytes(b"damaged")
    Image.new("RGB", (9, 9)).save(strips[1])
    assert run(assets, out) == 0
    assert all(Image.open(out / name).height < old for name, old in zip(("accepted.png", "rejected.png"), before))


def test_files_that_no_renderer_should_see_are_failures_and_the_run_goes_on(tmp_path):
    reasons = make_bad(tmp_path / "assets/bad")
    make(tmp_path / "assets", {"draws": "draws"})
    for path in (tmp_path / "assets/bad").glob("*.*"):  # one id each
        path.rename(path.with_name(f"{path.stem}_{path.suffix[1:]}{path.suffix}"))
    assert run(tmp_path / "assets", tmp_path / "out", "render.sheet_rows=0") == 1
    failed = lines(tmp_path / "out/failures.jsonl")
    assert len(failed) == len(reasons) and {line["kind"] for line in failed} <= {"unreadable", "refused"}
    assert [line["id"] for line in lines(tmp_path / "out/svd_meta.jsonl")] == ["draws"]


def test_webp_holds_the_same_pixels(tmp_path):
    assets = make(tmp_path / "assets", {"a": "draws"})
    run(assets, tmp_path / "png", "render.sheet_rows=0")
    run(assets, tmp_path / "webp", "render.sheet_rows=0", "render.format=webp")
    png, webp = (np.asarray(Image.open(tmp_path / kind / f"a/002.{kind}")) for kind in ("png", "webp"))
    assert np.array_equal(png, webp)
    assert lines(tmp_path / "webp/svd_meta.jsonl")[0]["image_path"][2] == "a/002.webp"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["render.assets={folder}/nowhere"], "nowhere is neither a folder nor a .txt file"),
        (["render.assets={folder}/empty"], "empty: holds no .glb, .gltf, .obj, .ply or .stl file"),
        (["render.out={folder}/assets/a.stl"], "a.stl cannot be written: "),
        (["render.out={folder}/assets/a.stl/out"], "cannot be written: Not a directory"),
        (["render.renderer=quick", "render.device=gpu"], "the quick renderer has no use for a GPU"),
        (["render.renderer=rembrandt"], "no 'rembrandt'; the renderers are quick, blender"),
        (["render.hdris={folder}/empty"], "holds no .hdr or .exr file"),
        *(([f"render.{key}=~nosuchuser/x"], "~nosuchuser/x: there is no such") for key in ("assets", "out", "hdris")),
        (["render.licenses=[by]"], "the licences of a folder's files are not known"),
        (["render.elevation_min_deg=40.0"], "elevation_min_deg 40.0 is above elevation_max_deg 30.0"),
        (["render.num_views=1000", "render.size_px=4096"], "an orbit has at most 352,321,536"),
        (["render.held_out=1.5"], "must be a share below 1, or a whole number"),
        (["render.held_out=0"], "render.held_out: "),
        (["render.num_view=4"], "did you mean render.num_views?"),
    ],
)
def test_bad_use_is_one_line_and_exit_2(words, message, tmp_path, capsys):
    make(tmp_path / "assets", {"a": "draws"})
    (tmp_path / "empty").mkdir()
    given = [f"render.assets={tmp_path}/assets", f"render.out={tmp_path}/out", *SMALL]
    assert main.main(["render", *given, *(word.format(folder=tmp_path) for word in words)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and message in captured.err


def test_a_folder_keeps_to_its_settings(whole, capsys):
    assets, out, _ = whole
    words = [f"render.assets={assets}", f"render.out={out}", *SMALL, "filter.min_thickness=0", "filter.min_change=0.01"]
    assert main.main(["render", *words, "render.size_px=64", "render.seed=1"]) == 2
    settings = "render.size_px=32, render.seed=0, filter.min_change=0.0"
    assert capsys.readouterr().err == f"error: {out} was rendered with {settings}: choose another render.out\n"


def use_second_standin(patch: pytest.MonkeyPatch) -> None:
    """A renderer that draws what the stand-in refuses, and refuses what is called to be refused by both."""
    command = ["env", "STANDIN_DRAWS=refuses", *STANDIN]
    patch.setitem(orbits.RENDERERS, "second", types.SimpleNamespace(command=lambda executable: command))


GUEST = ("render.renderer=second", "render.num_samples=7")


def test_another_renderer_takes_what_the_folders_own_refused_and_nothing_else(tmp_path, monkeypatch, capsys):
    use_second_standin(monkeypatch)
    kinds = {"a": "draws", "b": "refuses", "c": "crashes", "d": "vanishes", "e": "forbids"}
    assets = make(tmp_path / "assets", kinds)
    out = tmp_path / "out"
    assert run(assets, out) == 1
    make(assets, {"f": "draws"})
    monkeypatch.setenv("STANDIN_LOG", str(tmp_path / "log"))
    assert run(assets, out, *GUEST) == 1
    assert sorted((tmp_path / "log").read_text().split()) == ["b.stl", "e.stl"]
    assert "second takes the 2 objects that it refused" in capsys.readouterr().out
    assert [line["id"] for line in lines(out / "svd_meta.jsonl")] == ["a", "b"]
    drawn_by = [json.loads((out / name / "transforms.json").read_text())["renderer"] for name in "ab"]
    assert drawn_by == ["standin", "second"]
    assert run(assets, out, *GUEST) == 1
    assert run(assets, out) == 1
    assert (tmp_path / "log").read_text().split()[2:] == ["f.stl"], "what both refused is at rest; its own is drawn"
    failed = {line["id"]: (line["kind"], line["renderer"]) for line in lines(out / "failures.jsonl")}
    expected = {"c": ("crashed", "standin"), "d": ("filtered", "standin"), "e": ("refused", "second")}
    assert failed == expected and [line["id"] for line in lines(out / "svd_meta.jsonl")] == ["a", "b", "f"]


def test_a_guest_keeps_to_the_folders_settings_and_retries_no_failures(tmp_path, monkeypatch, capsys):
    use_second_standin(monkeypatch)
    assets = make(tmp_path / "assets", {"a": "refuses"})
    out = tmp_path / "out"
    run(assets, out)
    words = ["render", f"render.assets={assets}", f"render.out={out}", *SMALL, *NO_FILTER, *GUEST]
    assert main.main([*words, "render.size_px=64"]) == 2
    assert f"error: {out} was rendered with render.size_px=32: choose" in capsys.readouterr().err
    assert main.main([*words, "render.retry_failures=true"]) == 2
    assert "belongs to render.renderer=standin, which may retry its failures" in capsys.readouterr().err


def test_a_folder_of_an_older_version_is_refused_by_the_keys_that_it_lacks(whole, tmp_path, capsys):
    assets, out, _ = whole
    shutil.copytree(out, tmp_path / "out")
    settings = json.loads((out / "render.json").read_text())
    del settings["render.up_axis"]
    (tmp_path / "out/render.json").write_text(json.dumps(settings))
    words = [f"render.assets={assets}", f"render.out={tmp_path}/out", *SMALL, *NO_FILTER]
    assert main.main(["render", *words]) == 2
    assert "/out was rendered before there was render.up_axis: choose another" in capsys.readouterr().err


def test_a_folder_keeps_to_its_environment_maps(tmp_path, capsys):
    make(tmp_path / "assets", {"a": "draws"})
    words = [f"render.assets={tmp_path}/assets", f"render.out={tmp_path}/out", f"render.hdris={tmp_path}/maps", *SMALL]
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps/one.hdr").write_bytes(b"one")
    assert main.main(["render", *words, *NO_FILTER, "render.sheet_rows=0"]) == 0
    (tmp_path / "maps").rename(tmp_path / "moved")
    words[2] = f"render.hdris={tmp_path}/moved"
    assert main.main(["render", *words, *NO_FILTER, "render.sheet_rows=0"]) == 0
    (tmp_path / "moved/two.hdr").write_bytes(b"two")
    capsys.readouterr()
    assert main.main(["render", *words, *NO_FILTER]) == 2
    error = capsys.readouterr().err
    assert "was rendered with render.hdris=1 maps, " in error and "other files in " in error and "(2 maps, " in error


FRAME = {"file_path": "000.png", "azimuth_deg": 0.0, "elevation_deg": 1.0}
OURS = {"renderer": "quick", "frames": [FRAME]}
FOREIGN_FOLDERS = {  # what its transforms.json says, and what lies beside it
    "without one": (None, "holiday.jpg"),
    "empty": ("", "holiday.jpg"),
    "of another form": ('{"mine": 1}', "holiday.jpg"),
    "with more beside it": (json.dumps(OURS), "holiday.jpg"),
    "of other names": (json.dumps(OURS | {"frames": [FRAME | {"file_path": "holiday.jpg"}]}), "holiday.jpg"),
    "another program's": (json.dumps({"frames": [FRAME]}), "000.png"),
}


@pytest.mark.parametrize("kind", FOREIGN_FOLDERS)
def test_a_foreign_folder_in_the_way_is_not_touched(kind, tmp_path, capsys, monkeypatch):
    make(tmp_path / "assets", {"a": "draws"})
    (tmp_path / "out/a").mkdir(parents=True)
    content, name = FOREIGN_FOLDERS[kind]
    (tmp_path / "out/a" / name).touch()
    if content is not None:
        (tmp_path / "out/a/transforms.json").write_text(content)
    monkeypatch.setattr(orbits, "run_job", lambda *_: pytest.fail("it is said before the rendering"))
    assert (
        main.main(["render", f"render.assets={tmp_path}/assets", f"render.out={tmp_path}/out", *SMALL, *NO_FILTER]) == 2
    )
    assert "out/a exists, and is not an orbit of render's" in capsys.readouterr().err
    assert (tmp_path / "out/a" / name).exists()


def test_a_machine_that_cannot_render_ends_the_run(tmp_path, capsys):
    make(tmp_path / "assets", {"a": "blames", "b": "draws"})
    assert main.main(["render", f"render.assets={tmp_path}/assets", f"render.out={tmp_path}/out", *SMALL]) == 2
    assert "error: the renderer cannot run here: error: no GPU" in capsys.readouterr().err
    assert not (tmp_path / "out/failures.jsonl").read_text(), "it was not the asset's fault"


@pytest.mark.parametrize(
    ("tail", "left"), [(b'{"id": "torn", "im', 1), (b'{"id": "typed", "kind": "crashed"}', 2), (b"\0" * 40, 1)]
)
def test_a_torn_last_line_is_cut_off_and_a_whole_one_kept(tail, left, tmp_path):
    (tmp_path / "render.json").write_text("{}")
    (tmp_path / "failures.jsonl").write_bytes(b'{"id": "a", "kind": "crashed"}\n' + tail)
    with Output(tmp_path) as output:
        assert len(output.finished()[1]) == left
    text = (tmp_path / "failures.jsonl").read_bytes()
    assert text.endswith(b"}\n") and text.count(b"\n") == left


def test_lines_are_read_while_another_holds_the_lock_and_only_whole_ones(tmp_path):
    lines = Lines(tmp_path / "a.jsonl", FailureLine, "render")
    (tmp_path / "a.jsonl").write_bytes(b'{"id": "a", "kind": "crashed"}\n{"id": "torn", "so')
    lines.read_on()
    assert set(lines.places) == {"a"}
    with open(tmp_path / "a.jsonl", "r+b") as other:  # cuts the torn one off and writes as many bytes of another
        other.truncate(31)
    with open(tmp_path / "a.jsonl", "ab") as other:
        other.write(b'{"id": "b", "kind": "timeout"}\n')
    lines.read_on()
    assert set(lines.places) == {"a", "b"} and lines.line("b") == b'{"id": "b", "kind": "timeout"}\n'
    (tmp_path / "fresh").write_text('{"id": "c", "kind": "memory"}\n')
    (tmp_path / "fresh").replace(tmp_path / "a.jsonl")
    assert not lines.read_to_end(), "replaced since: to be read without the lock first"
    lines.read_on()
    assert lines.read_to_end() and set(lines.places) == {"c"}
    lines.close()


def test_what_killed_writers_left_unfinished_is_removed(tmp_path):
    with pytest.raises(KeyError), new_file(tmp_path / "render.json"):
        raise KeyError
    assert not list(tmp_path.iterdir()), "an error leaves none"
    unfinished_path(tmp_path / "svd_meta.jsonl").touch()
    with Output(tmp_path):
        assert not list(tmp_path.glob(".*.unfinished"))


@pytest.mark.parametrize("dies", [True, False])
def test_what_another_process_was_at_is_tried_again_at_the_end(dies, tmp_path, monkeypatch, capsys):
    """A file system may hold the locks of a machine that died for a while. One that lives keeps its object."""
    make(tmp_path / "assets", {"a": "draws", "b": "draws"})
    code = "import sys; from rendering.queue.locks import Locks; locks = Locks(sys.argv[1]); "
    code += "print(locks.take(int(sys.argv[2])), flush=True); sys.stdin.read()"
    (tmp_path / "out").mkdir()
    words = [sys.executable, "-c", code, str(tmp_path / "out/.lock"), str(_number("a"))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True\n"
        keep = Output.keep

        def keep_and_end(self, line, orbit):
            keep(self, line, orbit)
            if dies and line["id"] == "b":
                other.kill()
                other.wait()

        monkeypatch.setattr(Output, "keep", keep_and_end)
        assert run(tmp_path / "assets", tmp_path / "out", "render.num_processes=1") == 0
        other.kill()
    rendered = {line["id"] for line in lines(tmp_path / "out/svd_meta.jsonl")}
    assert rendered == ({"a", "b"} if dies else {"b"})
    assert ("1 left to other processes; the list is not finished yet" in capsys.readouterr().out) is not dies


def test_a_damaged_line_amid_others_is_named(tmp_path, capsys):
    make(tmp_path / "assets", {"a": "draws"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out/render.json").write_text("{}")
    (tmp_path / "out/svd_meta.jsonl").write_text(f"{ORBIT}\nnonsense\n{ORBIT}\n")
    assert main.main(["render", f"render.assets={tmp_path}/assets", f"render.out={tmp_path}/out", *SMALL]) == 2
    assert "svd_meta.jsonl:2: not a line of render's" in capsys.readouterr().err


ODD_VALUES = (
    None,
    True,
    -1,
    10**30,
    1.5,
    "text",
    "",
    "\ud800",
    [],
    {},
    [[]],
    ["../../etc/passwd"],
    ["/etc/passwd"],
    [True],
)
ODD_FILES = (b"", b"\xff\xfe{\0}\0", b"\xff\n", b"[" * 10**5, b"{}", b"null", b'{"id": NaN}', b"[]", b'"id"')


def odd_contents(good: bytes) -> Iterator[bytes]:
    """The first line of a file of ours with each of its values replaced, or missing, and what is not a line at all."""
    content = json.loads(good.splitlines()[0] if good.startswith(b'{"id"') else good)
    for key in content:
        yield json.dumps({name: value for name, value in content.items() if name != key}).encode()
        yield from (json.dumps(content | {key: value}).encode() for value in ODD_VALUES)
    yield from ODD_FILES


@pytest.mark.parametrize("name", ["svd_meta.jsonl", "failures.jsonl", "render.json"])
def test_a_file_of_ours_that_says_something_odd_is_one_line_and_exit_2_or_of_no_consequence(
    name, whole, tmp_path, capsys
):
    assets, out, _ = whole
    shutil.copytree(out, tmp_path / "out")
    good = (tmp_path / "out" / name).read_bytes()
    words = [f"render.assets={assets}", f"render.out={tmp_path}/out", *SMALL, *NO_FILTER, "render.sheet_rows=2"]
    codes = Counter()
    for content in odd_contents(good):
        (tmp_path / "out" / name).write_bytes(content + (b"\n" + good if name.endswith("l") else b""))
        code = main.main(["render", *words])
        codes[code] += 1
        error = capsys.readouterr().err
        assert code in (1, 2) and (code == 1 or (error.startswith("error: ") and error.count("\n") == 1)), content[:90]
    assert codes[2] > codes[1]


@pytest.mark.parametrize("name", ["accepted.png", "rejected.png", "svd_meta.jsonl"])
def test_a_file_that_only_has_our_name_is_not_replaced(name, whole, tmp_path):
    assets, out, _ = whole
    (tmp_path / "out").mkdir()
    mine = (out / name).read_bytes() if name.endswith("l") else b"mine"  # lines that render would take for its own
    (tmp_path / "out" / name).write_bytes(mine)
    with pytest.raises(UserError, match=f"{name} is there, and no render.json says that it is ours"):
        run(assets, tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == mine


def test_the_last_line_of_a_file_that_is_not_ours_is_left_as_it_is(whole, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/failures.jsonl").write_text('{"uid": "abc"}')  # without a line break
    with pytest.raises(UserError, match=r"failures\.jsonl is there, and no render\.json says that it is ours"):
        run(whole[0], tmp_path / "out")
    assert (tmp_path / "out/failures.jsonl").read_text() == '{"uid": "abc"}'


class FullDisk:
    """Files opened for writing under `folder` are noted; what is written to one called `full` finds no space."""

    def __init__(self, folder: Path, full: str | None = None):
        self.folder = folder
        self.full = full
        self.names = []
        self.original = open

    def open(self, file, mode="r", *arguments, **keywords):
        if not isinstance(file, int) and str(file).startswith(str(self.folder)) and set(mode) & set("wx"):
            # Hidden names and folders' names are hashes.
            name = re.sub(r"^\.|\.\w{8}\.unfinished$", "", Path(file).name)
            self.names.append(name)
            if name == self.full:
                return self.original("/dev/full", mode.replace("x", "w"), *arguments, **keywords)
        return self.original(file, mode, *arguments, **keywords)

    def use(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr("builtins.open", self.open)
        patch.setattr("io.open", self.open)


def test_a_full_disk_is_one_line_that_names_the_file_whichever_it_is(tmp_path, capsys, monkeypatch):
    make(tmp_path / "assets", {"a": "draws", "b": "vanishes"})
    words = [f"render.assets={tmp_path}/assets", *SMALL, *NO_FILTER]
    disk = FullDisk(tmp_path / "out")
    with monkeypatch.context() as patch:
        disk.use(patch)
        assert main.main(["render", *words, f"render.out={tmp_path}/out"]) == 0
    written = set(disk.names) - {"log"}  # the renderer's, to which we write nothing
    assert {"environment.npy", "job.json", "000.png", "strip.png", "accepted.png", "render.json"} < written
    for number, name in enumerate(sorted(written)):
        out = tmp_path / f"out_{number}"
        capsys.readouterr()
        with monkeypatch.context() as patch:
            FullDisk(out, name).use(patch)
            assert main.main(["render", *words, f"render.out={out}"]) == 2, name
        error = capsys.readouterr().err
        assert error.startswith(f"error: {out}/") and error.count("\n") == 1, error
        assert f"{name}: cannot be written or read: No space left on device" in error


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_line_that_finds_no_space_names_its_file(call, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lines = Lines(tmp_path / "a.jsonl", FailureLine, "render")
    lines.read_on()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError) as error:
            lines.append({"id": "a", "kind": "crashed"})
    lines.close()
    assert error.value.filename == str(tmp_path / "a.jsonl")


FOREIGN = (
    ".DS_Store",
    "Thumbs.db",
    "0123",
    "notes.txt",
    "3" * 17,
    "F" * 16,
    "g" * 16,
    "f" * 16,
    "-" * 16,
    "é",
    "_1" * 8,
)


def test_what_is_foreign_in_the_folder_of_claims_breaks_no_start_and_stays(tmp_path):
    assets = make(tmp_path / "assets", {"a": "draws"})
    claims = tmp_path / "out/.rendering"
    claims.mkdir(parents=True)
    for number, name in enumerate(FOREIGN):
        (claims / name).mkdir() if number % 2 else (claims / name).touch()
    stale = claims / f"{_number('killed'):016x}"
    stale.mkdir()
    (stale / "000.png").touch()
    (claims / f"{_number('a'):016x}").touch()
    assert run(assets, tmp_path / "out", "render.sheet_rows=0") == 0
    assert {path.name for path in claims.iterdir()} == set(FOREIGN)


@pytest.mark.parametrize("letter", ["a", "é", "字"])
@pytest.mark.parametrize("num_bytes", [200, 230, 251])
def test_ids_may_be_as_long_as_names_of_files_and_be_rendered_again(letter, num_bytes, tmp_path):
    name = letter * (num_bytes // len(letter.encode()))
    assets = make(tmp_path / "assets", {f"{name}/{name}": "draws"})
    for _ in range(2):
        assert run(assets, tmp_path / "out") == 0
        assert [line["id"] for line in lines(tmp_path / "out/svd_meta.jsonl")] == [f"{name}/{name}"]
        (tmp_path / "out/svd_meta.jsonl").unlink()  # as if it was killed before the line was written
    assert len(list((tmp_path / f"out/{name}/{name}").iterdir())) == 5


@pytest.mark.parametrize("held_out", [0.3, 3, 40])
def test_what_is_held_out_is_split_off_whole_and_put_back_when_no_longer_asked_for(held_out, tmp_path):
    assets = make(tmp_path / "assets", dict.fromkeys("abcdefgh", "draws") | {"i": "crashes"})
    out = tmp_path / "out"
    files = (out / "svd_meta.jsonl", out / "svd_meta_held_out.jsonl")
    for given in (f"render.held_out={held_out}", "render.held_out=1", "render.held_out=null", "render.held_out=0.999"):
        assert run(assets, out, "render.sheet_rows=0", given) == 1
        training, apart = ([line["id"] for line in lines(path)] for path in files)
        assert sorted(training + apart) == list("abcdefgh") and training == sorted(training) and apart == sorted(apart)
        amount = load_config(RenderConfig, ["render.assets=a", "render.out=b", given]).render.held_out
        assert set(apart) == held_out_of("abcdefgh", amount)


def test_the_held_out_choice_is_stable_as_the_set_grows():
    ids = [f"object {number}" for number in range(3000)]
    for amount in (0.01, 0.2, 0.9, 1, 7, 400):
        chosen = set()
        known = set()
        for size in (10, 100, 1000, 3000):
            before = chosen
            chosen = held_out_of(ids[:size], amount)
            trained_on = known - before
            known = set(ids[:size])
            assert not chosen & trained_on, "an orbit that was trained on is never held out later"
            if amount >= 1:
                assert len(chosen) == min(size, amount)
            else:
                assert (
                    before <= chosen
                    and abs(len(chosen) - amount * size) < 4 * (amount * (1 - amount) * size) ** 0.5 + 3
                )


# Kills.


def child(assets: str, out: str, words: list[str], environment: dict, moment: int, moments: list) -> None:
    """In a process of its own: renders, notes what each moment was, and dies at number `moment` (0: never).

    A moment is just before a sync, a rename, a removal, a new folder; or amid a line's write.
    """
    heed_terminal()
    os.environ.update(environment)
    use_standin(pytest.MonkeyPatch())
    numbers = count(1)

    def watch(name: str) -> None:
        original = getattr(os, name)

        def watched(*arguments, **keywords):
            if name == "write" and not arguments[1].startswith(b'{"id"'):
                return original(*arguments, **keywords)
            moments.append(name)
            if next(numbers) == moment:
                if name == "write":
                    original(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **keywords)

        setattr(os, name, watched)

    for name in ("fsync", "rename", "replace", "rmdir", "mkdir", "write"):
        watch(name)
    os._exit(run(Path(assets), Path(out), *words))


def start(assets: Path, out: Path, *words: str, environment: dict | None = None, moment: int = 0, moments=None):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    arguments = (str(assets), str(out), list(words), environment or {}, moment, [] if moments is None else moments)
    process = context.Process(target=child, args=arguments)
    process.start()
    return process


def ended(process) -> int:
    process.join(ENDLESS)
    return process.exitcode


def test_sigkill_at_any_moment_leaves_no_trace_once_it_has_gone_on(tmp_path):
    assets = make(tmp_path / "assets", {"a": "crashes", "b/c": "draws"})
    words = ("render.sheet_rows=0", "render.num_views=2", "render.held_out=1")
    with multiprocessing.Manager() as manager:
        moments = manager.list()
        assert ended(start(assets, tmp_path / "whole", *words, moments=moments)) == 1
        names = list(moments)
    assert names.count("write") == 2
    expected = tree(tmp_path / "whole")
    chosen = sorted({1 + index * (len(names) - 1) // 5 for index in range(6)} | {1 + names.index("write")})
    for moment in chosen:
        out = tmp_path / f"killed_{moment}"
        assert ended(start(assets, out, *words, moment=moment)) == -signal.SIGKILL
        assert ended(start(assets, out, *words)) == 1
        assert tree(out) == expected, f"killed before {names[moment - 1]}, moment {moment} of {len(names)}"
        assert not list((out / ".rendering").iterdir())


def test_processes_that_overlap_render_nothing_twice(tmp_path):
    assets = make(tmp_path / "assets", dict.fromkeys("abcdefgh", "draws"))
    divisions = ({}, {"RANK": "0", "WORLD_SIZE": "2"}, {"RANK": "1", "WORLD_SIZE": "2"})
    log = {"STANDIN_LOG": str(tmp_path / "log")}
    processes = [start(assets, tmp_path / "out", "render.sheet_rows=0", environment=log | one) for one in divisions]
    assert [ended(process) for process in processes] == [0, 0, 0]
    drawn = Counter((tmp_path / "log").read_text().split())
    assert drawn == Counter({f"{letter}.stl": 1 for letter in "abcdefgh"})
    assert [line["id"] for line in lines(tmp_path / "out/svd_meta.jsonl")] == list("abcdefgh")


def test_sigterm_ends_it_soon_and_the_same_command_goes_on(tmp_path):
    assets = make(tmp_path / "assets", {"a": "draws", "b": "hangs"})
    process = start(assets, tmp_path / "out", "render.sheet_rows=0", environment={"STANDIN_LOG": str(tmp_path / "log")})
    while not (tmp_path / "log").exists() or "b.stl" not in (tmp_path / "log").read_text():
        process.join(0.05)
        assert process.exitcode is None
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process) == 128 + signal.SIGTERM
    make(tmp_path / "assets", {"b": "draws"})
    assert run(assets, tmp_path / "out", "render.sheet_rows=0") == 0


def test_a_second_signal_ends_it_where_it_hangs(tmp_path):
    assets = make(tmp_path / "assets", {"a": "draws"})
    out = tmp_path / "out"
    out.mkdir()
    with open(out / ".lock", "w+b") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX, 1, SHEETS)
        process = start(assets, out)
        while not (out / "svd_meta.jsonl").exists() or not (out / "svd_meta.jsonl").read_bytes():
            process.join(0.05)
            assert process.exitcode is None
        process.join(1)  # by now it is at the sheets, or about to be
        os.kill(process.pid, signal.SIGHUP)
        process.join(1)
        second = process.exitcode is None
        if second:
            os.kill(process.pid, signal.SIGHUP)
        assert ended(process) == 128 + signal.SIGHUP and second


# Objaverse, through a stand-in for its package.

UIDS = [letter * 32 for letter in "abc"]
PACKAGE = """
import os
from pathlib import Path
BASE_PATH = {base!r}
LICENSES = {licenses!r}
def load_annotations(uids):
    if os.environ.get("TORN_INDEX"):
        raise EOFError("Compressed file ended before the end-of-stream marker was reached")
    return {{uid: {{"license": LICENSES[uid]}} for uid in uids}}
def load_objects(uids, download_processes):
    if os.environ.get("NO_NETWORK"):
        raise OSError("Temporary failure in name resolution")
    path = Path(BASE_PATH, "hf-objaverse-v1/glbs/000-000", uids[0] + ".glb")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        Path(str(path) + ".tmp").write_bytes({glb!r})
        if os.environ.get("KILLED_FETCHING"):
            os.kill(os.getpid(), 9)
        os.rename(str(path) + ".tmp", path)
    if os.environ.get("KILLED_FETCHED"):
        os.kill(os.getpid(), 9)
    with open(BASE_PATH + "/log", "a") as log:
        log.write(f"{{len(list(path.parent.iterdir()))}} ")
    return {{uids[0]: str(path)}}
"""


@pytest.fixture
def objaverse(tmp_path, monkeypatch):
    make_good(tmp_path / "good")
    licenses = dict(zip(UIDS, ("by", "by-nc", "by")))
    text = PACKAGE.format(
        base=str(tmp_path / "cache"), licenses=licenses, glb=(tmp_path / "good/crate.glb").read_bytes()
    )
    (tmp_path / "objaverse.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "objaverse", raising=False)
    drawn = Drawn(np.full((4, 32, 32, 4), 128, np.uint8), Placement((0.0, 0.0, 0.0), 1.0, (0.5, 0.5, 0.5)))
    monkeypatch.setattr(orbits, "run_job", lambda *_: drawn)
    (tmp_path / "uids.txt").write_text("# mine\n" + "\n".join(UIDS) + "\n\n" + "d" * 32 + " # not there\n")
    yield tmp_path
    sys.modules.pop("objaverse", None)


def test_uids_are_fetched_rendered_and_removed_with_their_licence_noted(objaverse):
    out = objaverse / "out"
    cached = objaverse / "cache/hf-objaverse-v1/glbs/000-000"
    cached.mkdir(parents=True)
    (cached / f"{UIDS[2]}.glb").write_bytes((objaverse / "good/crate.glb").read_bytes())  # the user's own
    assert run(objaverse / "uids.txt", out, "render.licenses=[by, cc0]", "render.sheet_rows=0") == 1
    assert [(line["id"], line["license"]) for line in lines(out / "svd_meta.jsonl")] == [
        (UIDS[0], "by"),
        (UIDS[2], "by"),
    ]
    failed = {line["id"]: (line["kind"], line["reason"]) for line in lines(out / "failures.jsonl")}
    assert failed[UIDS[1]] == ("filtered", "its licence is by-nc, not one of render.licenses")
    assert failed["d" * 32] == ("unreadable", "Objaverse has no such object")
    assert [path.name for path in cached.iterdir()] == [f"{UIDS[2]}.glb"]
    assert max(map(int, (objaverse / "cache/log").read_text().split())) <= 2


def test_other_licences_than_the_folder_was_rendered_with_are_refused(objaverse):
    out = objaverse / "out"
    run(objaverse / "uids.txt", out, "render.licenses=[by, cc0]")
    with pytest.raises(UserError, match=r"was rendered with render.licenses=by, cc0:"):
        run(objaverse / "uids.txt", out, "render.licenses=[by]")
    run(objaverse / "uids.txt", out, "render.licenses=[cc0, by]")
    saved = json.loads((out / "render.json").read_text())
    del saved["render.licenses"]
    (out / "render.json").write_text(json.dumps(saved))  # as an earlier version wrote it
    run(objaverse / "uids.txt", out, "render.licenses=[by]")


def test_without_a_network_nothing_is_written_down(objaverse, monkeypatch):
    monkeypatch.setenv("NO_NETWORK", "1")
    (objaverse / "uids.txt").write_text(UIDS[0])
    assert run(objaverse / "uids.txt", objaverse / "out", "render.sheet_rows=0") == 1
    assert not (objaverse / "out/failures.jsonl").read_text()
    monkeypatch.delenv("NO_NETWORK")
    assert run(objaverse / "uids.txt", objaverse / "out", "render.sheet_rows=0") == 0


def test_an_object_that_the_package_skips_costs_the_object_only_till_the_next_run(objaverse, monkeypatch, capsys):
    package = importlib.import_module("objaverse")
    load = package.load_objects
    monkeypatch.setattr(package, "load_objects", lambda uids, **more: {} if uids == UIDS[:1] else load(uids, **more))
    assert run(objaverse / "uids.txt", objaverse / "out") == 1
    assert f"{UIDS[0]}: download: the objaverse package fetched nothing" in capsys.readouterr().out


@pytest.mark.parametrize(("code", "is_final"), [(404, True), (410, True), (503, False)])
def test_an_object_that_the_hub_no_longer_has_is_not_asked_for_again(code, is_final, objaverse, monkeypatch):
    def answer(uids, download_processes):
        raise urllib.error.HTTPError("https://hub.invalid/a.glb", code, "no", {}, None)

    (objaverse / "uids.txt").write_text(UIDS[0])
    monkeypatch.setattr("objaverse.load_objects", answer)
    assert run(objaverse / "uids.txt", objaverse / "out", "render.sheet_rows=0") == 1
    kinds = [line["kind"] for line in lines(objaverse / "out/failures.jsonl")]
    assert kinds == (["unreadable"] if is_final else [])


def test_a_torn_index_costs_the_object_only_till_the_next_run(objaverse, monkeypatch, capsys):
    """The package fetches only what is missing: what it tore would stay so."""
    package = importlib.import_module("objaverse")
    metadata = Path(package.BASE_PATH, "hf-objaverse-v1/metadata")
    metadata.mkdir(parents=True)
    (metadata / "000-000.json.gz").write_bytes(b"whole")
    load = package.load_annotations

    def tear(uids):
        (metadata / "000-001.json.gz").write_bytes(b"torn")
        return load(uids)

    monkeypatch.setattr(package, "load_annotations", tear)
    monkeypatch.setenv("TORN_INDEX", "1")
    assert run(objaverse / "uids.txt", objaverse / "out", "render.sheet_rows=0") == 1
    assert not (objaverse / "out/failures.jsonl").read_text()
    assert "a torn index, remove " in capsys.readouterr().out
    assert [path.name for path in metadata.iterdir()] == ["000-000.json.gz"]
    monkeypatch.delenv("TORN_INDEX")
    run(objaverse / "uids.txt", objaverse / "out", "render.sheet_rows=0")
    assert len(lines(objaverse / "out/svd_meta.jsonl")) == len(UIDS)


def test_an_error_of_the_packages_own_is_no_missing_object(objaverse, monkeypatch):
    (objaverse / "uids.txt").write_text(UIDS[0])
    monkeypatch.setattr("objaverse.load_annotations", lambda uids: {}["license"])
    with pytest.raises(KeyError, match="license"):
        run(objaverse / "uids.txt", objaverse / "out", "render.sheet_rows=0")


@pytest.mark.parametrize("moment", ["KILLED_FETCHING", "KILLED_FETCHED"])
def test_what_a_killed_process_fetched_is_removed_by_the_next(moment, objaverse):
    (objaverse / "uids.txt").write_text(UIDS[0])
    code = f"""
import sys
sys.path[:0] = {[str(objaverse), str(Path(__file__).parents[2])]!r}
from pathlib import Path
import tests.commands.test_render as tests
tests.use_standin(tests.pytest.MonkeyPatch())
tests.run(Path({str(objaverse / "uids.txt")!r}), Path({str(objaverse / "out")!r}), "render.sheet_rows=0")
"""
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, moment: "1"}, timeout=ENDLESS)
    assert killed.returncode == -signal.SIGKILL
    cached = objaverse / "cache/hf-objaverse-v1/glbs/000-000"
    assert len(list(cached.iterdir())) == 1
    assert run(objaverse / "uids.txt", objaverse / "out", "render.sheet_rows=0") == 0
    assert not list(cached.iterdir()) and not list((objaverse / "cache/svd_mv_fetched").iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chair\n", r"uids.txt:1: expected an Objaverse uid of 32 hexadecimal digits, found 'chair'"),
        ("# none\n", "holds no Objaverse uid"),
        (f"{UIDS[0]}\n{UIDS[0]}\n", f"uids.txt:2: {UIDS[0]} is in the list already"),
    ],
)
def test_a_list_that_is_none_is_refused(text, message, objaverse, capsys):
    (objaverse / "uids.txt").write_text(text)
    assert main.main(["render", f"render.assets={objaverse}/uids.txt", f"render.out={objaverse}/out", *SMALL]) == 2
    assert message in capsys.readouterr().err


def test_without_the_package_one_line_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "objaverse", None)
    (tmp_path / "uids.txt").write_text(UIDS[0])
    assert main.main(["render", f"render.assets={tmp_path}/uids.txt", f"render.out={tmp_path}/out", *SMALL]) == 2
    assert "takes `pip install objaverse`" in capsys.readouterr().err


def test_the_quick_renderer_renders_every_format(tmp_path, monkeypatch):
    monkeypatch.setattr(orbits, "environment_for", environment_for)
    ids = make_good(tmp_path / "assets")
    words = ("render.renderer=quick", "render.size_px=64", "render.num_samples=1", "filter.min_change=0.004")
    assert run(tmp_path / "assets", tmp_path / "out", *words) == 0
    assert [line["id"] for line in lines(tmp_path / "out/svd_meta.jsonl")] == ids


# In several processes, and under Slurm.


def test_accelerate_divides_the_list_among_its_processes(tmp_path):
    """With files that no renderer sees, so that the launch needs none. No process is stopped by another one's failures."""
    for number in range(7):
        path = make(tmp_path / "assets", {f"{number}": "draws"}) / f"{number}.stl"
        path.write_text("cut off")
    renderer = ("render.renderer=blender", f"render.executable={shutil.which('true')}")
    words = (f"render.assets={tmp_path}/assets", f"render.out={tmp_path}/out", *renderer)
    answer = forked_launch("--config_file", "accelerate_config/cpu.yaml", "main.py", "render", *words)
    assert answer.returncode == 0, answer.stdout
    ends = re.findall(r": 0 rendered, 0 filtered, (\d) failed \(unreadable \d\) of (\d) objects", answer.stdout)
    assert sorted(ends) == [("3", "3"), ("4", "4")], answer.stdout
    assert [line["id"] for line in lines(tmp_path / "out/failures.jsonl")] == list("0123456")


def test_a_signal_before_the_slurm_script_has_started_anything_requeues_the_task(tmp_path):
    """And one between the start and the script's next line: `python` sends it as it starts."""
    for early in (True, False):
        log = tmp_path / f"log_{early}"
        signalled = "kill -USR1 $PPID\n"
        (tmp_path / "python").write_text(f"#!/bin/bash\ntrap 'exit 143' TERM\n{signalled}sleep 5 & wait $!\n")
        (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> {log}\n')
        for name in ("python", "scontrol"):
            (tmp_path / name).chmod(0o755)
        script = Path("accelerate_config/render_slurm.sbatch").read_text()
        if early:
            script = script.replace("trap stop_and_requeue USR1\n", "trap stop_and_requeue USR1\nkill -USR1 $$\n")
        task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        ended = subprocess.run(["bash", "-c", script, "script", "c.yaml"], env={**os.environ, **task}, timeout=ENDLESS)
        assert ended.returncode == 0 and log.read_text() == "requeue 7_3\n"


@pytest.mark.parametrize(
    ("restarts", "words"), [({}, ""), ({"SLURM_RESTART_COUNT": "1"}, " render.retry_failures=false")]
)
def test_the_slurm_script_stops_a_task_in_time_and_requeues_it(restarts, words, tmp_path):
    log = tmp_path / "log"
    rendering = (
        f'trap "echo TERM >> {log}; exit 143" TERM\necho "$@" >> {log}\nfor i in $(seq 100); do sleep 0.1; done\n'
    )
    (tmp_path / "python").write_text(f"#!/bin/bash\n{rendering}")
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> {log}\n')
    for name in ("python", "scontrol"):
        (tmp_path / name).chmod(0o755)
    task = {
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "3",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    } | restarts
    process = subprocess.Popen(
        ["bash", "accelerate_config/render_slurm.sbatch", "c.yaml", "render.out=o"], env={**os.environ, **task}
    )
    while not log.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(ENDLESS) == 0
    assert log.read_text().splitlines() == [f"main.py render c.yaml render.out=o{words}", "TERM", "requeue 7_3"]
