"""`sample` writes the right files, framing, cameras and seeds, and says every mistake in one line."""

import json
import random
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main
from commands.sample import background_remover, check_replaceable
from dataset.inputs import input_view
from dataset.records import Records
from dataset.views import measure_object_fill
from models.sampling import guidance_scales
from rendering.camera import focal_length_px, project
from tests.helpers.runs import sign
from training.saved_model import find_saved_model
from utils.camera import camera_to_world
from utils.errors import UserError
from utils.schemas import DataSettings, SourceSettings
from utils.video import read_mp4

FAST = ("sample.num_inference_steps=2", "sample.elevation_deg=10")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("017", "018"):
        shutil.copy(f"dummy_objaverse/{name}/003.png", folder / f"{name}.png")
    return folder


def sample(run, *words) -> int:
    return main.main(["sample", str(run), *FAST, *words])


def frames(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("[0-9]*.png"))])


def test_a_folder_of_images_gives_views_video_sheet_and_cameras_of_each(trained_run, images, tmp_path):
    assert sample(trained_run, f"sample.image={images}", f"sample.out={tmp_path}/out", "sample.seeds=[0,5]") == 0
    for place in ("017/seed_0", "017/seed_5", "018/seed_0", "018/seed_5"):
        folder = tmp_path / "out" / place
        views = frames(folder)
        assert views.shape == (21, 32, 32, 3)
        assert read_mp4(folder / "video.mp4").shape == (21, 32, 32, 3)
        assert Image.open(folder / "sheet.png").width > 21 * 32
        assert 'data-views="21"' in (folder / "index.html").read_text()
        cameras = json.loads((folder / "transforms.json").read_text())
        assert [frame["file_path"] for frame in cameras["frames"]] == [f"{view:03d}.png" for view in range(21)]
        about = json.loads((folder / "sample.json").read_text())
        assert about["model"]["step"] == 1 and about["elevation_deg"] == 10
    assert (frames(tmp_path / "out/017/seed_0") != frames(tmp_path / "out/017/seed_5")).any()
    raw = (f"sample.image={images}/017.png", f"sample.out={tmp_path}/raw", "sample.weights=raw")
    assert sample(trained_run, *raw) == 0
    assert (frames(tmp_path / "out/017/seed_0") != frames(tmp_path / "raw/017/seed_0")).any()
    assert not list((tmp_path / "out").rglob(".*.unfinished"))


def test_a_seeds_video_does_not_depend_on_the_batch_or_the_other_images(trained_run, images, tmp_path):
    together = ("sample.batch_size=3", "sample.seeds=[4,0]")
    assert sample(trained_run, f"sample.image={images}", f"sample.out={tmp_path}/together", *together) == 0
    assert sample(trained_run, f"sample.image={images}/018.png", f"sample.out={tmp_path}/alone") == 0
    alone, batched = (frames(tmp_path / name / "018/seed_0").astype(int) for name in ("alone", "together"))
    assert np.abs(alone - batched).max() <= 1, "a batch rounds differently, by less than a level"


def test_a_jsonl_gives_each_image_its_elevation_and_may_be_a_meta_file(trained_run, tmp_path):
    lines = [
        {"image": "dummy_objaverse/017/003.png", "elevation_deg": -4, "id": "my table"},
        json.loads(Path("svd_meta_held_out.jsonl").read_text().splitlines()[1]),
    ]
    lines[1]["image_path"] = [f"dummy_objaverse/{path}" for path in lines[1]["image_path"]]
    text = "".join(json.dumps(line) + "\r\n" for line in lines)
    (tmp_path / "list.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())  # as Windows writes it
    words = (f"sample.image={tmp_path}/list.jsonl", "sample.root=.", f"sample.out={tmp_path}/out")
    assert sample(trained_run, *words) == 0
    found = {path.parent.parent.name: json.loads(path.read_text()) for path in tmp_path.rglob("sample.json")}
    assert {name: about["elevation_deg"] for name, about in found.items()} == {"my_table": -4, "boat": -3.0}


def test_the_written_cameras_project_known_points_to_where_a_pinhole_sees_them(trained_run, images, tmp_path):
    """The test goes by the definition of transforms.json: OpenGL axes, camera to world."""
    assert sample(trained_run, f"sample.image={images}/017.png", f"sample.out={tmp_path}/out") == 0
    cameras = json.loads((tmp_path / "out/017/seed_0/transforms.json").read_text())
    top, front = np.array([0, 0, 0.5, 1]), np.array([0.5, 0, 0, 1])

    def pixel(point, frame):
        x, y, z, _ = np.linalg.inv(frame["transform_matrix"]) @ point
        assert z < 0, "in front of the camera, which looks along -z"
        return cameras["cx"] + cameras["fl_x"] * x / -z, cameras["cy"] - cameras["fl_y"] * y / -z

    assert pixel(front, cameras["frames"][0])[0] == pytest.approx(16), "the input view looks at +x, in the middle"
    assert pixel(front, cameras["frames"][5])[0] < 8, "a quarter on, at +y, the front is to the left"
    assert pixel(front, cameras["frames"][16])[0] > 24, "and from -y to the right"
    for frame in cameras["frames"]:
        assert pixel(top, frame)[0] == pytest.approx(16) and pixel(top, frame)[1] < 8
        to_world = camera_to_world(frame["azimuth_deg"], 10, 1.896)
        expected = project(front[None, :3], to_world, focal_length_px(32), 32)[0]
        np.testing.assert_allclose(pixel(front, frame), expected, atol=0.01)


def object_share(view) -> float:
    """Return how much of the frame's side is taken up by what is not white."""
    rows, columns = (view[0].min(dim=0).values < 0.9).nonzero(as_tuple=True)
    return (max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) + 1) / view.shape[-1]


def test_an_object_anywhere_in_its_picture_is_framed_as_the_training_data(trained_run, tmp_path):
    data = DataSettings(root="dummy_objaverse", meta="svd_meta.jsonl")
    measured = measure_object_fill(Records(data.meta, 21), data)
    recipe = find_saved_model(SourceSettings(checkpoint=str(trained_run))).recipe
    assert recipe["object_fill"] == measured == pytest.approx(0.76, abs=0.03)
    small = Image.open("dummy_objaverse/017/003.png").resize((60, 60))
    canvas = Image.new("RGBA", (400, 300))
    canvas.paste(small, (310, 20))
    canvas.save(tmp_path / "corner.png")
    view = input_view(tmp_path / "corner.png", measured, 128)
    assert object_share(view) == pytest.approx(measured, abs=0.03)
    middle = [float(where.float().mean()) for where in (view[0].min(dim=0).values < 0.9).nonzero(as_tuple=True)]
    assert all(abs(place - 64) < 12 for place in middle)


def test_an_opaque_photo_is_taken_whole_and_rembg_cuts_it_out_when_asked(tmp_path, monkeypatch):
    photo = np.full((100, 200, 3), 90, np.uint8)
    photo[50:] = 40
    photo[40:60, 90:110] = 200
    Image.fromarray(photo).save(tmp_path / "photo.jpg", quality=95)
    view = input_view(tmp_path / "photo.jpg", 0.5, 64)
    assert (view[0, :, :12] > 0.999).all() and (view[0, :, 18:46] < 0.9).all(), "in a square, its whole width kept"

    def remove(image, session):
        assert session == "isnet-general-use"
        bright = np.asarray(image.convert("L")) > 150
        return Image.fromarray(np.dstack([np.asarray(image)[..., :3], (bright * 255).astype(np.uint8)]))

    monkeypatch.setitem(sys.modules, "rembg", types.SimpleNamespace(remove=remove, new_session=lambda name: name))
    assert object_share(input_view(tmp_path / "photo.jpg", 0.5, 64, background_remover())) == pytest.approx(
        0.5, abs=0.05
    )


def test_an_opaque_photo_draws_one_warning_however_often_it_is_opened(trained_run, images, tmp_path, capsys):
    photo = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(photo).save(images / "photo.jpg")
    words = (f"sample.image={images}", f"sample.out={tmp_path}/out", "sample.seeds=[0,1]")
    assert sample(trained_run, *words) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and "photo.jpg" in warnings[0] and "sample.remove_background=true" in warnings[0]


@pytest.mark.parametrize(
    ("stand_in", "fragment"), [(None, "pip install 'rembg"), (OSError("no route to host"), "no route to host")]
)
def test_rembg_or_its_weights_missing_is_one_line(monkeypatch, stand_in, fragment):
    def no_weights(name):
        raise stand_in

    module = stand_in and types.SimpleNamespace(remove=None, new_session=no_weights)
    monkeypatch.setitem(sys.modules, "rembg", module)
    with pytest.raises(UserError, match=fragment):
        background_remover()


def test_an_object_that_rembg_does_not_find_and_a_stray_pixel(tmp_path):
    Image.new("RGB", (64, 64), "white").save(tmp_path / "empty.jpg")
    with pytest.raises(UserError, match="shows no object, all of it is background"):
        input_view(tmp_path / "empty.jpg", 0.8, 32, lambda image: Image.new("RGBA", image.size))
    cut = Image.open("dummy_objaverse/017/003.png")
    canvas = Image.new("RGBA", (512, 512))
    canvas.paste(cut, (0, 0))
    canvas.putpixel((511, 511), (0, 0, 0, 1))
    canvas.save(tmp_path / "stray.png")
    assert object_share(input_view(tmp_path / "stray.png", 0.8, 128)) == pytest.approx(0.8, abs=0.03)


def test_guidance_kinds():
    assert guidance_scales("constant", 5, 1.0, 2.5).tolist() == [2.5] * 5
    assert guidance_scales("linear", 4, 1.0, 2.5).tolist() == [1.0, 1.5, 2.0, 2.5]
    assert guidance_scales("orbit", 4, 1.0, 2.5).tolist() == [1.0, 1.75, 2.5, 1.75]


def bad_image(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.png"
    if kind == "text":
        path.write_text("not a picture")
    elif kind == "tiny":
        Image.new("RGB", (1, 1)).save(path)
    elif kind == "transparent":
        Image.new("RGBA", (64, 64)).save(path)
    elif kind == "speck":
        image = Image.new("RGBA", (64, 64))
        image.putpixel((5, 5), (255, 0, 0, 255))
        image.save(path)
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "fragment"),
    [
        ("missing", "missing.png: cannot be read: no such file"),
        ("text", "text.png: not an image file"),
        ("tiny", "1 x 1 pixels is too small"),
        ("transparent", "shows no object, all of it is transparent"),
        ("speck", "less than 16 pixels"),
        ("folder", "no image in it"),
    ],
)
def test_a_bad_image_is_one_line_and_leaves_nothing_behind(trained_run, images, tmp_path, capsys, kind, fragment):
    path = bad_image(tmp_path, kind)
    assert sample(trained_run, f"sample.image={path}", f"sample.out={tmp_path}/out") == 2
    error = capsys.readouterr().err
    assert fragment in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bad_images_among_good_ones_cost_only_themselves_and_are_named_at_the_end(
    trained_run, images, tmp_path, capsys
):
    bad = [bad_image(images, kind) for kind in ("text", "tiny", "transparent")]
    words = (f"sample.image={images}", f"sample.out={tmp_path}/out", "sample.batch_size=2", "sample.seeds=[0,1]")
    assert sample(trained_run, *words) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert [line.partition(": ")[2].partition(": ")[0] for line in lines[:-1]] == [str(path) for path in bad]
    assert lines[-1] == f"3 images were left out: {bad[0]}, {bad[1]}, {bad[2]}"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["017", "018"]
    assert len(list((tmp_path / "out").rglob("sample.json"))) == 4


def test_an_image_in_which_rembg_finds_nothing_costs_only_itself(trained_run, images, tmp_path, capsys, monkeypatch):
    Image.new("RGB", (64, 64), "gray").save(images / "017 empty.png")

    def remover():
        return lambda image: Image.new("RGBA", image.size)

    monkeypatch.setattr("commands.sample.background_remover", remover)
    words = (f"sample.image={images}", f"sample.out={tmp_path}/out", "sample.remove_background=true")
    assert sample(trained_run, *words) == 1
    assert "1 images were left out: " + str(images / "017 empty.png") in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["017", "018"]


def test_when_every_image_is_bad_nothing_is_loaded(trained_run, tmp_path, capsys):
    bad = [bad_image(tmp_path, kind) for kind in ("text", "tiny")]
    assert sample(trained_run, f"sample.image={tmp_path}", f"sample.out={tmp_path}/out") == 2
    assert capsys.readouterr().err.startswith(f"error: no image can be used; the first: {bad[0]}: not an image")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["sample.elevation_deg=91"], "less than or equal to 90"),
        (["sample.elevation_deg=null"], "elevation_deg is missing"),
        (["sample.seeds=[1,1]"], "each seed once"),
        (["sample.image=tests/no.jsonl"], "no.jsonl: cannot be read"),
        (["sample.guidance_min=3"], "guidance_min 3.0 is above"),
        (["sample.object_fil=0.5"], "did you mean sample.object_fill?"),
    ],
)
def test_a_wrong_setting_is_one_line(trained_run, images, tmp_path, capsys, words, fragment):
    assert sample(trained_run, f"sample.image={images}", f"sample.out={tmp_path}/out", *words) == 2
    error = capsys.readouterr().err
    assert fragment in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ("{", r"list.jsonl:1: not JSON"),
        ("[]", r"list.jsonl:1: expected"),
        ('{"image": "a.png", "elevation_deg": 100}', r"list.jsonl:1: an elevation is"),
        ('{"image": "a.png", "elevation_deg": true}', r"list.jsonl:1: an elevation is"),
        ('{"image": "a.png", "elevation_deg": 1, "id": ".."}', "list.jsonl:1: '..' has no letter"),
        ('{"image": ".", "elevation_deg": 1}', "list.jsonl:1: '.' has no letter"),
        (
            '{"image": "a.png", "elevation_deg": 1}\n{"image": "./a.png", "elevation_deg": 2, "id": "A"}',
            "both be written",
        ),
    ],
)
def test_a_bad_line_of_a_jsonl_is_named(trained_run, tmp_path, capsys, line, fragment):
    (tmp_path / "list.jsonl").write_text(line + "\n")
    assert sample(trained_run, f"sample.image={tmp_path}/list.jsonl", f"sample.out={tmp_path}/out") == 2
    assert fragment in capsys.readouterr().err


def broken_checkpoint(folder: Path, kind: str, trained_run: Path) -> Path:
    checkpoint = folder / "checkpoint"
    if kind != "empty":
        shutil.copytree(trained_run / "checkpoints/step_0000001", checkpoint)
    meta = checkpoint / "meta.json"
    if kind == "empty":
        checkpoint.mkdir()
    elif kind == "stock":
        meta.write_text(meta.read_text().replace('"elevation_deg"', '"motion_bucket_id"'))
    elif kind == "two_ids":
        (checkpoint / "unet_ema/svd_mv.json").write_text('{"added_time_ids": ["elevation_deg", "noise_aug_strength"]}')
        sign(checkpoint)
    elif kind == "other_version":
        meta.write_text(meta.read_text().replace('"cond_dropout"', '"conditional_dropout"'))
    elif kind == "truncated":
        weights = checkpoint / "unet_ema/diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:9999])
    elif kind == "no_base":
        meta.write_text(meta.read_text().replace('"tiny_svd"', '"elsewhere/tiny"'))
    return checkpoint


@pytest.mark.parametrize(
    ("kind", "fragment"),
    [
        ("empty", "holds no complete checkpoint"),
        ("stock", "not elevation_deg: that is no multi-view model"),
        ("two_ids", "this UNet embeds 3 added time ids, but svd_mv.json names 2"),
        ("other_version", "written by another version of this program: noise.conditional_dropout"),
        ("truncated", "diffusion_pytorch_model.safetensors is not what was saved"),
        ("no_base", "elsewhere/tiny"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(trained_run, images, tmp_path, capsys, kind, fragment):
    checkpoint = broken_checkpoint(tmp_path, kind, trained_run)
    assert sample(checkpoint, f"sample.image={images}", f"sample.out={tmp_path}/out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and fragment in error
    assert not (tmp_path / "out").exists()
    if kind == "no_base":
        words = (f"sample.image={images}/017.png", f"sample.out={tmp_path}/out", "sample.base=tiny_svd")
        assert sample(checkpoint, *words) == 0


def test_no_folder_at_all_is_one_line(tmp_path, capsys):
    assert sample("runs/nowhere", "sample.image=a.png", f"sample.out={tmp_path}/out") == 2
    assert "no folder 'runs/nowhere'" in capsys.readouterr().err


def test_what_we_did_not_write_is_not_replaced(trained_run, images, tmp_path, capsys):
    words = (f"sample.image={images}/017.png", f"sample.out={tmp_path}/out")
    (tmp_path / "out/017/seed_0/nerf").mkdir(parents=True)
    assert sample(trained_run, *words) == 2
    assert "would be replaced, but holds nerf" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert sample(trained_run, words[0], f"sample.out={tmp_path}/file/out") == 2
    assert "file: is a file" in capsys.readouterr().err


NAMES = [
    *(f"{view:03d}.png" for view in range(21)),
    "index.html",
    "input.png",
    "sheet.png",
    "transforms.json",
    "video.mp4",
]


def our_orbit(folder: Path) -> Path:
    """Make a folder as `sample` writes it."""
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_text("content")
    (folder / "sample.json").write_text(json.dumps({"seed": 0, "files": [*NAMES, "sample.json"]}))
    return folder


def test_a_folder_is_replaced_only_if_every_file_in_it_is_listed_as_ours(tmp_path):
    """In 200 folders a file is added, or made a folder or a link, or the list of files is removed or spoiled."""
    dice = random.Random(0)
    for number in range(200):
        folder = our_orbit(tmp_path / f"{number}/image/seed_0")
        check_replaceable(folder)
        name = dice.choice(NAMES)
        kind = dice.choice(
            ("no list", "not listed", "foreign", "folder", "link", "spoiled", "odd", "linked", "linked above")
        )
        about = json.loads((folder / "sample.json").read_text())
        if kind == "no list":
            (folder / "sample.json").unlink()
        elif kind == "not listed":
            about["files"].remove(name)
        elif kind == "foreign":
            (folder / dice.choice(("021.png", ".hidden", "a.txt", "SAMPLE.json", "000.PNG"))).touch()
        elif kind == "folder":
            (folder / name).unlink()
            (folder / name).mkdir()
        elif kind == "link":
            (folder / name).rename(tmp_path / f"{number}/kept")
            (folder / name).symlink_to(tmp_path / f"{number}/kept")
        elif kind == "odd":
            about = dice.choice(([], {"files": None, "seed": 0}, {"seed": 0}, {"seed": 0, "files": [1]}, "files"))
        elif kind == "linked":
            folder = folder.rename(folder.with_name("mine"))
            folder.with_name("seed_0").symlink_to(folder)
            folder = folder.with_name("seed_0")
        elif kind == "linked above":
            folder.parent.rename(tmp_path / f"{number}/mine")
            folder.parent.symlink_to(tmp_path / f"{number}/mine")
        if kind in ("not listed", "odd"):
            (folder / "sample.json").write_text(json.dumps(about))
        if kind == "spoiled":
            (folder / "sample.json").write_text("{")
        before = sorted(folder.iterdir())
        with pytest.raises(UserError):
            check_replaceable(folder)
        assert sorted(folder.iterdir()) == before


def test_an_interrupted_video_leaves_no_folder_and_the_earlier_one_stays(trained_run, images, tmp_path, monkeypatch):
    words = (f"sample.image={images}/017.png", f"sample.out={tmp_path}/out")
    assert sample(trained_run, *words) == 0
    before = frames(tmp_path / "out/017/seed_0")

    def full(*_):
        raise OSError(28, "No space left on device", "video.mp4")

    monkeypatch.setattr("commands.sample.write_mp4", full)
    assert sample(trained_run, *words, "sample.guidance=constant") == 2
    assert (frames(tmp_path / "out/017/seed_0") == before).all()
    assert not list(tmp_path.rglob(".*.unfinished"))
