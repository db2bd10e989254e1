"""`main.py import_orbits`: sources in each format, drawn by our own renderer, become the orbits that were put in."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main
from commands import import_orbits
from dataset.archive_index import add_archive
from dataset.importers import work
from dataset.importers.report import Counts
from dataset.records import Records, parse_record
from dataset.sources import open_views
from rendering.transforms import orbit_transforms
from tests.helpers.archives import TAR_FORMATS
from tests.helpers.make_renders import (
    DOME,
    MIRRORED,
    RING_12,
    RING_24,
    Y_UP,
    gobjaverse_blobs,
    pixels,
    png,
    write_gobjaverse,
    write_npy,
    write_parquet,
    write_tar,
    write_transforms,
)
from utils.config import load_config
from utils.images import open_rgba
from utils.schemas import DataSettings
from utils.schemas_import import ImportOrbitsConfig

BOAT = ("1/600/ring_0", "1/600/ring_1")


def run(source: Path, out: Path, *words) -> int:
    settings = (f"import_orbits.source={source}", f"import_orbits.out={out}", "import_orbits.num_processes=1")
    return main.main(["import_orbits", *settings, *words])


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def failures(out: Path) -> dict[str, str]:
    return {line["id"]: f"{line['kind']}: {line['reason']}" for line in lines(out / "failures.jsonl")}


def assert_shows(root: Path, record: dict, name: str, poses) -> None:
    """The record's images are what our renderer draws from these poses, in this order, bit by bit."""
    assert record["elevation"] == pytest.approx([elevation for _, elevation in poses], abs=1e-3)
    assert len(record["image_path"]) == len(poses)
    for path, pose in zip(record["image_path"], poses):
        assert (np.asarray(open_rgba(root / path)) == pixels(name, pose)).all(), (path, pose)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """G-Objaverse as folders: two whole objects, one lacks a view of its first ring, one is mirrored, one is damaged.

    Another has an error page in place of its view from above.
    """
    folder = tmp_path_factory.mktemp("gobjaverse")
    write_gobjaverse(folder / "0/100", gobjaverse_blobs("car"))
    write_gobjaverse(folder / "0/20000", gobjaverse_blobs("duck"), below="")  # as the set's own script writes it
    lacking = gobjaverse_blobs("chair")
    del lacking["00007.png"], lacking["00007.json"]
    write_gobjaverse(folder / "1/300", lacking)
    write_gobjaverse(folder / "1/400", gobjaverse_blobs("mug", world=MIRRORED))
    write_gobjaverse(folder / "1/500", {"00000.png": b"<Error>", "00000.json": b"<Error>"})
    write_gobjaverse(folder / "1/600", gobjaverse_blobs("boat") | {"00025.png": b"<Error>", "00025.json": b"<Error>"})
    return folder


@pytest.fixture(scope="module")
def imported(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("imported")
    assert run(source, out) == 0
    return out


def test_a_g_objaverse_folder_of_known_cameras_gives_them_back_without_copying_an_image(source, imported):
    records = {line["id"]: line for line in lines(imported / "svd_meta.jsonl")}
    assert [*records] == ["0/100/ring_0", "0/100/ring_1", "0/20000/ring_0", "0/20000/ring_1", "1/300/ring_0", *BOAT]
    for object_id, name in (("0/100", "car"), ("0/20000", "duck")):
        assert_shows(source, records[f"{object_id}/ring_0"], name, RING_24)
        assert_shows(source, records[f"{object_id}/ring_1"], name, RING_12)
    assert_shows(source, records["1/300/ring_0"], "chair", RING_12)
    assert records["0/100/ring_0"]["fov_deg"] == pytest.approx(39.6, abs=0.01)
    assert records["0/100/ring_0"]["first_azimuth_deg"] == 0
    assert not list(imported.rglob("[0-9]*.png"))


def test_what_is_refused_has_a_line_with_its_kind_and_reason(imported):
    reasons = failures(imported)
    assert reasons.keys() == {"1/300", "1/400", "1/500", "1/600"}
    assert "incomplete: at elevation 12.0, 23 views would stand 15.7 degrees apart" in reasons["1/300"]
    assert "30.0 degrees follow azimuth 90" in reasons["1/300"]
    assert reasons["1/400"].startswith("cameras: view 00000: its axes are left-handed")
    assert reasons["1/500"].startswith("unreadable: 00000.json: cannot be read")
    assert reasons["1/600"].startswith("unreadable: 00025.json: cannot be read")


def test_the_sheets_show_accepted_and_rejected_objects(imported):
    rows = {name: Image.open(imported / name).size for name in ("accepted.png", "rejected.png")}
    assert rows["accepted.png"][1] == 4 * 98
    assert rows["rejected.png"][1] == 1 * 98, "the damaged object's images cannot be told from its other files"


def test_only_orbits_of_so_many_frames_are_written_and_none_is_looked_at_twice(source, imported, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(imported, out)
    monkeypatch.setattr(import_orbits, "import_all", lambda todo, *_: [] if not todo else pytest.fail("looked again"))
    assert run(source, out, "import_orbits.num_frames=24") == 0
    assert [len(line["image_path"]) for line in lines(out / "svd_meta.jsonl")] == [24, 24, 24]
    assert len(Records(str(out / "svd_meta.jsonl"), 24)) == 3
    assert len(Records(str(imported / "svd_meta.jsonl"), 12)) == 7


def test_held_out_objects_take_all_their_rings_along(source, imported, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(imported, out)
    assert run(source, out, "import_orbits.held_out=1") == 0
    held_out, kept = (
        {line["id"].rpartition("/")[0] for line in lines(out / name)}
        for name in ("svd_meta_held_out.jsonl", "svd_meta.jsonl")
    )
    assert len(held_out) == 1 and len(kept) == 3 and not held_out & kept
    assert run(source, out) == 0
    assert not (out / "svd_meta_held_out.jsonl").exists()
    assert (out / "svd_meta.jsonl").read_bytes() == (imported / "svd_meta.jsonl").read_bytes()


def test_processes_change_nothing(source, imported, tmp_path):
    assert run(source, tmp_path, "import_orbits.num_processes=2") == 0
    for name in ("svd_meta.jsonl", "failures.jsonl", "objects.jsonl"):
        assert (tmp_path / name).read_bytes() == (imported / name).read_bytes()


def test_an_interrupted_import_goes_on(source, imported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(work, "OBJECTS_PER_TASK", 2)
    first = iter([signal.SIGTERM])
    add = import_orbits.ImportFolder.add

    def stop_after(folder, rows):
        add(folder, rows)
        if number := next(first, None):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(import_orbits.ImportFolder, "add", stop_after)
    assert run(source, tmp_path) == 128 + signal.SIGTERM
    assert "goes on from here" in capsys.readouterr().out
    assert len(lines(tmp_path / "objects.jsonl")) == 2 and not (tmp_path / "svd_meta.jsonl").exists()
    with open(tmp_path / "objects.jsonl", "a") as journal:
        journal.write('{"id": "1/300", "rec')  # as a kill leaves it
    assert run(source, tmp_path) == 0
    assert (tmp_path / "svd_meta.jsonl").read_bytes() == (imported / "svd_meta.jsonl").read_bytes()
    assert (tmp_path / "objects.jsonl").read_bytes() == (imported / "objects.jsonl").read_bytes()


def test_refused_objects_are_looked_at_again_only_when_asked(tmp_path):
    blobs = gobjaverse_blobs("car")
    write_gobjaverse(tmp_path / "in/0/1", {key: data for key, data in blobs.items() if key != "00004.png"})
    write_gobjaverse(tmp_path / "in/0/2", blobs)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert failures(tmp_path / "out")["0/1"] == "images: view 00004 has no image"
    write_gobjaverse(tmp_path / "in/0/1", blobs)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert failures(tmp_path / "out")
    assert run(tmp_path / "in", tmp_path / "out", "import_orbits.retry_failures=true") == 0
    assert not failures(tmp_path / "out")
    assert len(lines(tmp_path / "out/svd_meta.jsonl")) == 4


def assert_is_the_car_in(imported: Path, records: list[dict]) -> None:
    """The records are those that folders gave, but for the place of the images."""
    expected = [line for line in lines(imported / "svd_meta.jsonl") if line["id"].startswith("0/100/")]
    for record, folders in zip(records, expected, strict=True):
        record = {key: value for key, value in record.items() if key != "archive"}
        assert record | {"image_path": 0} == folders | {"image_path": 0}


def test_parquet_files_give_what_folders_give_with_their_images_extracted(imported, tmp_path):
    blobs = gobjaverse_blobs("car")
    write_parquet(tmp_path / "in/0/100.parquet", {"keys": [*blobs], "values": [*blobs.values()]})
    assert run(tmp_path / "in", tmp_path / "out") == 0
    records = lines(tmp_path / "out/svd_meta.jsonl")
    assert_shows(tmp_path / "out", records[0], "car", RING_24)
    assert_shows(tmp_path / "out", records[1], "car", RING_12)
    assert records[0]["image_path"][3] == "views/0/100/ring_0/00003.png"
    assert_is_the_car_in(imported, records)


@pytest.mark.parametrize(("form", "below"), [("ustar", ""), ("pax", "./"), ("gnu", "")])
def test_tars_give_what_folders_give_and_their_images_are_read_where_they_lie(form, below, imported, tmp_path):
    write_tar(tmp_path / "in/0/100.tar", gobjaverse_blobs("car"), below, TAR_FORMATS[form])
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert_is_the_car_in(imported, lines(tmp_path / "out/svd_meta.jsonl"))
    assert not list(tmp_path.rglob("[0-9]*.png"))
    assert (tmp_path / "out/accepted.png").is_file() and not (tmp_path / "out/rejected.png").exists()
    data = DataSettings(root=str(tmp_path / "in"), meta=str(tmp_path / "out/svd_meta.jsonl"))
    for record, poses in zip(Records(data.meta, 12), (RING_24, RING_12), strict=True):
        for (_, image), pose in zip(open_views(record, data, range(len(poses))), poses, strict=True):
            assert (np.asarray(image) == pixels("car", pose)).all()
        raw = {"image_path": record.image_paths, "elevation": record.elevations_deg}
        again, _ = add_archive(json.dumps(raw).encode(), "again", tmp_path / "in")
        assert parse_record(again.encode(), "again", 12).archive == record.archive


def test_a_tar_whose_images_cannot_be_read_by_their_place_is_refused(tmp_path):
    write_tar(tmp_path / "in/good.tar", gobjaverse_blobs("car"))
    write_tar(tmp_path / "in/long.tar", gobjaverse_blobs("car"), "a" * 200 + "/", TAR_FORMATS["gnu"])
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert "too long for its header: import it unpacked" in failures(tmp_path / "out")["long"]
    assert len(lines(tmp_path / "out/svd_meta.jsonl")) == 2


def test_dome_objaverse_gives_its_three_rings_with_sides_and_its_licence(tmp_path):
    order = np.random.default_rng(0).permutation(len(DOME))
    columns = {"view_id": [int(view) for view in order], "image_png": [png("duck", DOME[view]) for view in order]}
    write_parquet(tmp_path / "in/0/7.parquet", columns)
    assert run(tmp_path / "in", tmp_path / "out", "import_orbits.license=CC-BY-4.0") == 0
    records = lines(tmp_path / "out/svd_meta.jsonl")
    for number, record in enumerate(records):
        assert_shows(tmp_path / "out", record, "duck", DOME[12 * number : 12 * number + 12])
    assert len(records) == 3 and {record["license"] for record in records} == {"CC-BY-4.0"}


def test_transforms_of_z_up_and_y_up_worlds_and_of_our_own_render_are_read(tmp_path, capsys):
    write_transforms(tmp_path / "in/z_up", "car", RING_24, license="CC0")
    write_transforms(tmp_path / "in/y_up", "duck", RING_24, Y_UP)
    write_transforms(tmp_path / "in/mirrored", "mug", RING_24, MIRRORED)
    ours = write_transforms(tmp_path / "in/ours", "boat", RING_24)
    (ours / "transforms.json").write_text(json.dumps(orbit_transforms([f"{n:03d}.png" for n in range(24)], 12.0, 24)))
    nerf = write_transforms(tmp_path / "in/nerf", "mug", RING_24)  # as NeRF's synthetic scenes name files
    (nerf / "transforms.json").rename(nerf / "transforms_test.json")
    named = (nerf / "transforms_test.json").read_text().replace('.png"', '"')
    (nerf / "transforms_test.json").write_text(named)
    (tmp_path / "licenses.json").write_text('{"y_up": "by"}')
    words = (f"import_orbits.licenses={tmp_path}/licenses.json", "import_orbits.license=unknown")
    assert run(tmp_path / "in", tmp_path / "out", *words) == 0
    nerf, ours, y_up, z_up = lines(tmp_path / "out/svd_meta.jsonl")
    for record, name in ((nerf, "mug"), (ours, "boat"), (y_up, "duck"), (z_up, "car")):
        assert_shows(tmp_path / "in", record, name, RING_24)
    assert ours["fov_deg"] == pytest.approx(33.8)
    assert (y_up["license"], z_up["license"]) == ("by", "CC0")
    assert "left-handed" in failures(tmp_path / "out")["mirrored"]


def test_zero123s_files_are_read_and_random_views_are_refused(tmp_path):
    random = np.random.default_rng(0)
    write_npy(tmp_path / "in/even", "car", RING_24)
    write_npy(tmp_path / "in/random", "car", [*zip(random.uniform(0, 360, 12), random.uniform(-20, 70, 12))])
    assert run(tmp_path / "in", tmp_path / "out") == 0
    (record,) = lines(tmp_path / "out/svd_meta.jsonl")
    assert_shows(tmp_path / "in", record, "car", RING_24)
    assert failures(tmp_path / "out")["random"].startswith("no ring: of 12 views at most")


def spoil_image(folder: Path, kind: str) -> None:
    path = folder / "003.png"
    image = Image.open(path)
    if kind == "opaque":
        image.convert("RGB").save(path)
    elif kind == "size":
        image.resize((8, 8)).save(path)
    elif kind == "cut off":
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "missing":
        path.unlink()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("opaque", "view 003.png is opaque"),
        ("size", "view 003.png is (8, 8)"),
        ("cut off", "view 003.png: is a PNG without its end"),
        ("missing", "view 003.png has no image"),
    ],
)
def test_a_ring_whose_images_are_not_all_there_and_alike_is_refused(kind, reason, tmp_path):
    write_transforms(tmp_path / "in/good", "car", RING_12)
    write_transforms(tmp_path / "in/bad", "car", RING_12)
    spoil_image(tmp_path / "in/bad", kind)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert failures(tmp_path / "out")["bad"].startswith(f"images: {reason}")
    assert [line["id"] for line in lines(tmp_path / "out/svd_meta.jsonl")] == ["good/ring_0"]
    if kind == "opaque":
        assert run(tmp_path / "in", tmp_path / "other", "import_orbits.needs_alpha=false") == 0
        assert len(lines(tmp_path / "other/svd_meta.jsonl")) == 2


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a\\b.png", "", "a\0b.png"])
def test_a_path_that_leads_out_of_the_source_is_refused(path, tmp_path):
    write_transforms(tmp_path / "in/good", "car", RING_12)
    write_transforms(tmp_path / "in/bad", "car", RING_12)
    (tmp_path / "in/secret.png").write_bytes(png("car", RING_12[0]))
    data = json.loads((tmp_path / "in/bad/transforms.json").read_text())
    data["frames"][3]["file_path"] = path
    (tmp_path / "in/bad/transforms.json").write_text(json.dumps(data))
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert failures(tmp_path / "out")["bad"].startswith("unreadable: ")


def write_hostile(folder: Path, kind: str) -> None:
    if kind == "tar":
        (folder / "bad.tar").write_bytes(os.urandom(2000))
        write_tar(folder / "good.tar", gobjaverse_blobs("car"))
    elif kind == "parquet":
        (folder / "bad.parquet").write_bytes(b"PAR1" + os.urandom(2000) + b"PAR1")
        write_parquet(folder / "other.parquet", {"object_id": ["a"]})
        blobs = gobjaverse_blobs("car")
        write_parquet(folder / "good.parquet", {"keys": [*blobs], "values": [*blobs.values()]})
    elif kind == "npy":
        write_npy(folder / "good", "car", RING_12)
        write_npy(folder / "bad", "car", RING_12)
        np.save(folder / "bad/003.npy", np.array([{"a": 1}], dtype=object))
        write_npy(folder / "huge", "car", RING_12)
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
        (folder / "huge/003.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header)


@pytest.mark.parametrize("kind", ["tar", "parquet", "npy"])
def test_a_damaged_file_costs_its_object_only(kind, tmp_path):
    (tmp_path / "in").mkdir()
    write_hostile(tmp_path / "in", kind)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    reasons = failures(tmp_path / "out")
    assert len(reasons) == (1 if kind == "tar" else 2)
    assert all(reason.startswith("unreadable: ") for reason in reasons.values())
    assert lines(tmp_path / "out/svd_meta.jsonl")[0]["id"] == "good/ring_0"


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["import_orbits.source=nowhere"], "nowhere is not a folder"),
        (["import_orbits.source=docs"], "holds nothing to import"),
        (["import_orbits.source=docs", "import_orbits.format=npy"], "holds no object in the format npy"),
        (["import_orbits.held_out=1.5"], "held_out: must be a share below 1"),
        (["import_orbits.licenses=nowhere.json"], "nowhere.json: cannot be read"),
        (["import_orbits.num_frames=23"], "none of 6 objects gave an orbit"),
        (["import_orbits.min_views=9"], "was made with import_orbits.min_views=8: choose another"),
        (["import_orbits.out=docs"], "says that it is ours"),
    ],
)
def test_a_wrong_setting_is_one_line(words, fragment, source, imported, tmp_path, capsys):
    shutil.copytree(imported, tmp_path / "out")
    out = tmp_path / "new" if "source=docs" in words[0] else tmp_path / "out"
    assert run(source, out, *words) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and fragment in message


def test_two_imports_cannot_write_to_one_folder(source, tmp_path, capsys):
    from multiprocessing import get_context

    holder = get_context("fork").Process(target=_hold, args=(tmp_path,))
    holder.start()
    try:
        while not (tmp_path / "held").exists():
            pass
        assert run(source, tmp_path / "out") == 2
        assert "another import is writing to it" in capsys.readouterr().err
    finally:
        holder.terminate()
        holder.join()


def _hold(folder: Path) -> None:
    with import_orbits.ImportFolder(folder / "out"):
        (folder / "held").touch()
        signal.pause()


def test_a_model_of_24_frames_is_trained_sampled_evaluated_and_exported(source, imported, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(imported, out)
    assert run(source, out, "import_orbits.num_frames=24", "import_orbits.held_out=1") == 0
    held_out = f"{out}/svd_meta_held_out.jsonl"
    data = (f"data.root={source}", f"data.meta={out}/svd_meta.jsonl", f"validation.meta={held_out}")
    fast = ("data.num_frames=24", "data.size_px=32", "data.num_workers=0", "train.max_steps=1", "train.batch_size=1")
    words = (f"run.dir={tmp_path}", "run.tracker=none", "validation.every_steps=0", *data, *fast)
    assert main.main(["train", "train_config/tiny_cpu.yaml", *words]) == 0
    run_folder = str(tmp_path / "tiny_cpu")
    words = ("sample.image=dummy_objaverse/017/003.png", "sample.elevation_deg=12", "sample.num_inference_steps=2")
    assert main.main(["sample", run_folder, *words, f"sample.out={tmp_path}/sampled"]) == 0
    assert len(list((tmp_path / "sampled").rglob("[0-9]*.png"))) == 24
    words = (f"evaluate.meta={held_out}", "evaluate.num_inference_steps=2", "evaluate.metrics=[psnr]")
    words = (*words, "evaluate.video_px=32", f"evaluate.out={tmp_path}/measured")
    assert main.main(["evaluate", run_folder, *words]) == 0
    assert main.main(["export", run_folder, f"export.out={tmp_path}/exported"]) == 0
    recipe = json.loads((tmp_path / "exported/svd_mv_recipe.json").read_text())
    assert recipe["config"]["data"]["num_frames"] == 24


def test_a_model_of_12_frames_is_trained_on_both_rings(source, imported, tmp_path):
    data = (f"data.root={source}", f"data.meta={imported}/svd_meta.jsonl", f"validation.meta={imported}/svd_meta.jsonl")
    fast = ("data.num_frames=12", "data.size_px=32", "data.num_workers=0", "train.max_steps=1", "train.batch_size=4")
    words = (f"run.dir={tmp_path}", "run.tracker=none", "validation.num_records=1", "validation.num_training_records=0")
    more = ("validation.every_steps=1", "validation.before=false", "validation.num_inference_steps=2")
    assert main.main(["train", "train_config/tiny_cpu.yaml", *words, *more, *data, *fast]) == 0
    (row,) = json.loads((tmp_path / "tiny_cpu/validation/step_0000001/metrics.json").read_text())["records"]
    assert row["loss"] > 0


def test_rings_whose_numbers_of_views_share_nothing_get_no_line_that_train_would_refuse(tmp_path, capsys):
    def line(name: str, num_views: int) -> dict:
        return {
            "id": name,
            "records": [{"image_path": ["a"] * num_views, "elevation": [0.0] * num_views}],
            "failures": [],
        }

    cfg = load_config(ImportOrbitsConfig, ["import_orbits.source=s", f"import_orbits.out={tmp_path}"])
    for lengths, said in (((24, 25), "cannot be trained together: [24, 25]"), ((24, 12), "data.num_frames=12")):
        lines = [line(str(length), length) for length in lengths]
        import_orbits.print_summary(cfg, Counts(lines, lambda line: line["records"]), tmp_path, tmp_path)
        text = capsys.readouterr().out
        assert said in text and ("to train:" in text) == (lengths == (24, 12))
