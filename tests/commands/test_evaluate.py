"""An evaluation gives right numbers, files and a page, goes on after an interruption, and says every mistake in one line."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional import mean_squared_error
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

import commands.evaluate
import main
from commands.evaluate import with_progress
from dataset.records import OrbitRecord, Records
from evaluation.metrics import input_repeated, mse, over_views, per_view, psnr, ssim
from evaluation.objects import choose_records
from evaluation.page import why_not_comparable
from evaluation.report import PROTOCOLS, protocol_differences
from tests.helpers.pages import Page
from utils.config import load_config
from utils.errors import UserError
from utils.reading import read_yaml
from utils.schemas import DataSettings, EvaluateConfig

META = "evaluate.meta=svd_meta_held_out.jsonl"
FAST = (META, "evaluate.num_inference_steps=2", "evaluate.metrics=[psnr,ssim,mse]", "evaluate.video_px=32")


def evaluate(run, out: Path, *words) -> int:
    return main.main(["evaluate", str(run), *FAST, f"evaluate.out={out}", *words])


@pytest.fixture(scope="module")
def evaluated(trained_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated") / "out"
    assert evaluate(trained_run, out) == 0
    return out


def test_psnr_ssim_and_mse_are_torchmetrics_view_by_view(random):
    views = torch.rand(4, 3, 48, 48, generator=random) * 2 - 1
    targets = torch.rand(4, 3, 48, 48, generator=random) * 2 - 1
    rows = per_view(
        {"sample": views, "input": input_repeated(targets)}, targets, {"psnr": psnr, "ssim": ssim, "mse": mse}
    )
    for row, candidate in (("sample", views), ("input", targets[:1].expand_as(targets))):
        for view in range(1, 4):
            pair = (candidate[view : view + 1] / 2 + 0.5, targets[view : view + 1] / 2 + 0.5)
            assert rows[row]["psnr"][view].item() == pytest.approx(
                peak_signal_noise_ratio(*pair, data_range=1.0).item()
            )
            expected = structural_similarity_index_measure(*pair, data_range=1.0).item()
            assert rows[row]["ssim"][view].item() == pytest.approx(expected, abs=1e-5)
            assert rows[row]["mse"][view].item() == pytest.approx(mean_squared_error(*pair).item())


def test_novel_means_leave_out_the_input_view():
    means = over_views(torch.tensor([100.0, 1.0, 2.0, 3.0]))
    assert means["novel"] == pytest.approx(2.0) and means["all"] == pytest.approx(26.5)


def test_the_report_holds_every_view_object_and_mean_of_all_three_rows(evaluated):
    report = json.loads((evaluated / "metrics.json").read_text())
    assert report["num_objects"] == 4 and report["unavailable"] == {}
    for row in ("sample", "input_repeated", "vae_reconstruction"):
        for name in ("psnr", "ssim", "mse"):
            per_view_rows = np.array([item["metrics"][row][name]["per_view"] for item in report["objects"]])
            assert per_view_rows.shape == (4, 21)
            np.testing.assert_allclose(report["per_view"][row][name], per_view_rows.mean(axis=0), rtol=1e-5)
            assert report["summary"][row][name]["novel"] == pytest.approx(per_view_rows[:, 1:].mean(), rel=1e-5)
            assert report["summary"][row][name]["all"] == pytest.approx(per_view_rows.mean(), rel=1e-5)
    repeated = report["objects"][0]["metrics"]["input_repeated"]
    assert repeated["psnr"]["per_view"][0] == 100 and repeated["mse"]["per_view"][0] == 0
    summary = report["summary"]
    assert summary["vae_reconstruction"]["psnr"]["novel"] > summary["sample"]["psnr"]["novel"] + 3, "the ceiling"
    ids = sorted(item["id"] for item in report["objects"])
    assert report["objects_sha256"] == hashlib.sha256("".join(f"{name}\n" for name in ids).encode()).hexdigest()


def test_the_csv_has_a_row_per_object(evaluated):
    rows = list(csv.DictReader((evaluated / "metrics.csv").open()))
    assert [row["id"] for row in rows] == ["boat", "cactus", "guitar", "table"]
    report = {item["id"]: item for item in json.loads((evaluated / "metrics.json").read_text())["objects"]}
    for row in rows:
        expected = report[row["id"]]["metrics"]["sample"]["psnr"]["novel"]
        assert float(row["sample_psnr_novel"]) == pytest.approx(expected, rel=1e-5)
        assert float(row["elevation_deg"]) == pytest.approx(report[row["id"]]["elevation_deg"])


def test_the_page_needs_no_other_file_and_shows_the_worst_first(evaluated):
    page = Page((evaluated / "index.html").read_text())
    links = [link for _, attributes in page.tags for key in ("src", "href") if (link := attributes.get(key))]
    assert links and all(link.startswith("data:") for link in links)
    sheets = [attributes["style"] for tag, attributes in page.tags if tag == "turn-table"]
    assert len(sheets) == 4 and all(sheet.count("url(data:image/webp;base64,") == 1 for sheet in sheets)
    lines = [attributes for tag, attributes in page.tags if tag == "polyline"]
    assert [len(line["points"].split()) for line in lines] == [21, 20, 21], (
        "the input repeated is perfect at its own view"
    )
    rows = {row["id"]: float(row["sample_psnr_novel"]) for row in csv.DictReader((evaluated / "metrics.csv").open())}
    shown = [text for text in page.text if text in rows]
    assert shown == sorted(rows, key=rows.get)
    text = "".join(page.text)
    assert "SVD-MV (arXiv 2311.15127) not comparable: another protocol" in text and "16.83" in text


def test_an_interrupted_evaluation_goes_on_and_measures_no_object_twice(trained_run, evaluated, tmp_path, monkeypatch):
    shutil.copytree(evaluated, tmp_path / "out")
    for name in ("metrics.json", "metrics.csv", "index.html", "objects/table.json", "objects/boat.json"):
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out/sheets/guitar.webp").unlink()
    seen = []
    original = commands.evaluate.measure_record

    def counted(record, *rest):
        seen.append(record.id)
        original(record, *rest)

    monkeypatch.setattr(commands.evaluate, "measure_record", counted)
    assert evaluate(trained_run, tmp_path / "out") == 0
    assert seen == ["boat", "guitar", "table"]
    for name in ("metrics.csv", "objects/table.json"):
        assert (tmp_path / "out" / name).read_bytes() == (evaluated / name).read_bytes(), name
    assert evaluate(trained_run, tmp_path / "out") == 0 and len(seen) == 3, "finished: only the report is written anew"


def test_a_metric_that_cannot_be_measured_is_reported_and_the_exit_code_is_1(trained_run, evaluated, tmp_path, capsys):
    shutil.copytree(evaluated, tmp_path / "out")
    words = ("evaluate.metrics=[psnr,clip]", "evaluate.clip_model=nobody/clip")
    assert evaluate(trained_run, tmp_path / "out", *words) == 2, "the settings differ"
    assert "other values of clip_model" in capsys.readouterr().err
    assert evaluate(trained_run, tmp_path / "new", *words, "evaluate.num_records=1") == 1
    assert "clip was not measured: 'nobody/clip' cannot be loaded" in capsys.readouterr().out
    report = json.loads((tmp_path / "new/metrics.json").read_text())
    assert set(report["unavailable"]) == {"clip"} and set(report["summary"]["sample"]) == {"psnr"}
    assert "CLIP-S ↑ was not measured" in (tmp_path / "new/index.html").read_text()


def test_clip_is_measured_with_the_model_that_the_config_names(trained_run, tmp_path):
    shutil.copytree("tiny_svd/image_encoder", tmp_path / "clip")
    shutil.copy("tiny_svd/feature_extractor/preprocessor_config.json", tmp_path / "clip")
    words = ("evaluate.metrics=[clip]", f"evaluate.clip_model={tmp_path}/clip", "evaluate.num_records=1")
    assert evaluate(trained_run, tmp_path / "out", *words) == 0
    row = json.loads((tmp_path / "out/metrics.json").read_text())["objects"][0]["metrics"]["input_repeated"]["clip"]
    assert row["per_view"][0] == pytest.approx(1, abs=1e-5) and row["novel"] < 1


def config(*words) -> EvaluateConfig:
    return load_config(EvaluateConfig, ["runs/none", META, "evaluate.out=out", *words])


def test_objects_come_from_a_list_or_by_the_hash_of_their_ids(tmp_path):
    records = Records("svd_meta_held_out.jsonl", 21)
    root = "dummy_objaverse"
    chosen = choose_records(records, root, config("evaluate.num_records=2").evaluate)
    by_hash = sorted(("table", "boat", "guitar", "cactus"), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert list(chosen) == by_hash[:2] and [records[index].id for index in chosen.values()] == by_hash[:2]
    (tmp_path / "list.txt").write_text("# two of them\nguitar\n\nboat  # a boat\n")
    chosen = choose_records(records, root, config(f"evaluate.objects={tmp_path}/list.txt").evaluate)
    assert sorted(records[index].id for index in chosen.values()) == ["boat", "guitar"]
    for text, fragment in (
        ("teapot\n", "1: 'teapot' is not in"),
        ("boat\nboat\n", "2: 'boat' stands twice"),
        ("#", "no object"),
    ):
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(UserError, match=fragment):
            choose_records(records, root, config(f"evaluate.objects={tmp_path}/list.txt").evaluate)
    with pytest.raises(UserError, match=r"has 4 records, evaluate.num_records is 5"):
        choose_records(records, root, config("evaluate.num_records=5").evaluate)
    with pytest.raises(UserError, match=r"no input_view 21"):
        choose_records(records, root, config("evaluate.input_view=21").evaluate)
    with pytest.raises(UserError, match=r"jsonl:4: elevation 28 is outside evaluate.elevations_deg, -5 to 25"):
        choose_records(records, root, config("evaluate.elevations_deg=[-5,25]").evaluate)
    with pytest.raises(UserError, match=r"jsonl:1: .*017/000.png: no such image file"):
        choose_records(records, "tests", config("evaluate.num_records=4").evaluate)


def test_two_records_of_one_id_are_refused(tmp_path):
    line = Path("svd_meta_held_out.jsonl").read_text().splitlines()[0]
    (tmp_path / "twice.jsonl").write_text(f"{line}\n{line.replace('table', 'Table')}\n")
    with pytest.raises(UserError, match=r"twice.jsonl:2: id 'Table' cannot be told from 'table'"):
        choose_records(Records(f"{tmp_path}/twice.jsonl", 21), ".", config().evaluate)


@pytest.mark.parametrize("record_id", ["..", "\U0001f697", " "])
def test_an_id_that_no_file_can_be_named_by_is_refused(record_id, tmp_path):
    line = json.loads(Path("svd_meta_held_out.jsonl").read_text().splitlines()[0])
    (tmp_path / "one.jsonl").write_text(json.dumps(line | {"id": record_id}))
    with pytest.raises(UserError, match=r"one.jsonl:1: id '.+' has no letter or digit"):
        choose_records(Records(f"{tmp_path}/one.jsonl", 21), ".", config().evaluate)


def test_no_escape_character_of_an_id_reaches_the_terminal(capsys):
    record = OrbitRecord("a\x1b[2J\u202eb" + "c" * 1000, (), (), "meta.jsonl:1")
    assert list(with_progress([record], hidden=True)) == [record]
    line = capsys.readouterr().out
    assert line.startswith(r"1/1 a\x1b[2J\u202eb") and line[:-1].isprintable() and len(line) < 300


@pytest.mark.parametrize("name", ["gso_svd_mv", "gso_sv3d_static"])
def test_numbers_are_comparable_only_under_every_setting_of_the_protocol_and_on_its_objects(name):
    path = PROTOCOLS / f"{name}.yaml"
    data = DataSettings(root=".", meta="gso.jsonl")
    words = ["runs/none", str(path), META, "evaluate.out=out"]

    def differences(*more):
        return protocol_differences(load_config(EvaluateConfig, [*words, *more]).evaluate, data)

    assert differences() == []
    assert differences("evaluate.size_px=320") == ["size_px is 320, not 576"]
    assert differences("evaluate.metrics=[clip,psnr,ssim,mse,lpips]") == [], "in any order"
    assert protocol_differences(config().evaluate, data) == ["no protocol was asked for"]
    fewer = data.model_copy(update={"num_frames": 14})
    assert protocol_differences(load_config(EvaluateConfig, words).evaluate, fewer)[-1] == "14 views, object_fill None"
    with pytest.raises(UserError, match=r"no other.yaml in evaluate_config/"):
        differences("evaluate.protocol=other")
    published = next(row for row in read_yaml(PROTOCOLS / "published.yaml")["gso"] if row["protocol"] == name)
    report = {"settings": {"protocol": name}, "not_as_published": [], "objects_sha256": "abc"}
    assert why_not_comparable(published, report) == ["its objects and renders were not published"]
    assert why_not_comparable(published | {"objects_sha256": "def"}, report) == ["other objects"]
    assert why_not_comparable(published | {"objects_sha256": "abc"}, report) == []
    assert why_not_comparable(published, report | {"settings": {"protocol": None}}) == ["another protocol"]


def test_numbers_of_other_weights_or_another_base_are_not_taken_for_these(trained_run, evaluated, tmp_path, capsys):
    shutil.copytree(evaluated, tmp_path / "out")
    assert evaluate(trained_run, tmp_path / "out", "evaluate.weights=raw") == 2
    assert "other values of unet, weights" in capsys.readouterr().err
    assert evaluate(trained_run, tmp_path / "out", "evaluate.base=tiny_svd") == 2
    assert "other values of base" in capsys.readouterr().err
    (tmp_path / "out/settings.json").write_text("{")
    assert evaluate(trained_run, tmp_path / "out") == 2
    assert "settings.json: cannot be read" in capsys.readouterr().err


def test_an_unknown_protocol_is_refused_before_any_work(trained_run, tmp_path, capsys):
    assert evaluate(trained_run, tmp_path / "out", "evaluate.protocol=gso") == 2
    assert "there is no gso.yaml in evaluate_config/" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_or_without_images_is_refused(trained_run, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").touch()
    assert evaluate(trained_run, tmp_path / "photos") == 2
    assert "is not empty, and holds no evaluation" in capsys.readouterr().err
    assert evaluate(trained_run, tmp_path / "out", f"evaluate.root={tmp_path}") == 2
    assert "no such image file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    assert evaluate(trained_run, tmp_path / "file") == 2
    assert "file: is a file" in capsys.readouterr().err
