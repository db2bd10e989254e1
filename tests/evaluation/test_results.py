"""The files of an evaluation's objects are read as they were written, or refused by name."""

import json

import pytest

from evaluation.report import summarise
from evaluation.results import is_measured, object_file, open_results, read_objects, sheet_file
from tests.helpers.hostile import mutated_bytes, mutated_tree
from utils.errors import UserError
from utils.files import remove, unfinished_path

SCORES = {"psnr": [20.0, 21.0, 100.0], "ssim": [0.5, 0.25, 1.0]}


def object_of(name: str) -> dict:
    rows = {"sample": SCORES, "input_repeated": SCORES}
    return {"id": name, "elevation_deg": 5.0, "video": f"videos/{name}.mp4", "metrics": rows}


@pytest.fixture
def out(tmp_path):
    open_results(tmp_path, {"seed": 0})
    for name in ("a", "b"):
        object_file(tmp_path, name).write_text(json.dumps(object_of(name)))
        sheet_file(tmp_path, name).touch()
    return tmp_path


def test_a_mutated_file_is_read_or_refused_by_name_and_what_is_read_can_be_summarised(out):
    path = object_file(out, "b")
    whole = object_of("b")
    mutants = [json.dumps(mutant).encode() for mutant in mutated_tree(whole, 300, seed=0)]
    mutants += mutated_bytes(json.dumps(whole).encode(), 300, seed=1)
    refused = 0
    for mutant in mutants:
        path.write_bytes(mutant)
        try:
            summarise(read_objects(out, ["a", "b"], ["psnr", "ssim"]), ["psnr", "ssim"])
            assert is_measured(out, "b", ["psnr", "ssim"])
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
    assert 400 < refused < len(mutants)


def test_objects_of_an_earlier_start_with_more_metrics_are_read_and_ones_with_fewer_refused(out):
    fewer = {row: {"psnr": scores["psnr"]} for row, scores in object_of("b")["metrics"].items()}
    object_file(out, "b").write_text(json.dumps(object_of("b") | {"metrics": fewer}))
    objects = read_objects(out, ["a", "b"], ["psnr"])
    assert summarise(objects, ["psnr"])["summary"]["sample"].keys() == {"psnr"}
    with pytest.raises(UserError, match=r"b\.json: is not what this evaluation wrote"):
        read_objects(out, ["a", "b"], ["psnr", "ssim"])


def test_an_object_without_its_sheet_is_measured_again(out):
    """That is how an evaluation of an earlier version, which wrote none, gets its page."""
    assert is_measured(out, "a", ["psnr"])
    sheet_file(out, "a").unlink()
    assert not is_measured(out, "a", ["psnr"])


def test_what_a_killed_evaluation_left_unfinished_is_removed(out):
    unfinished_path(object_file(out, "a")).touch()
    unfinished_path(out / "metrics.json").touch()
    unfinished_path(sheet_file(out, "a")).touch()
    open_results(out, {"seed": 0})
    assert not list(out.rglob(".*.unfinished")) and len(list(out.glob("objects/*"))) == 2


@pytest.mark.parametrize("name", ["videos/a.mp4", "sheets/a.webp", "objects/a.json", "metrics.json", "videos"])
def test_a_link_in_the_folder_is_neither_followed_nor_written_through(out, name, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "mine"
    elsewhere.write_text("a film of my own")
    remove(out / name)
    (out / name).symlink_to(elsewhere)
    with pytest.raises(UserError, match=f"{name}: is a link"):
        open_results(out, {"seed": 0})
    assert elsewhere.read_text() == "a film of my own"


def test_a_video_of_another_name_than_the_objects_is_refused(out):
    for video in ("videos/a.mp4", "metrics.json", "x/b.mp4"):
        object_file(out, "b").write_text(json.dumps(object_of("b") | {"video": video}))
        with pytest.raises(UserError, match=r"b\.json: is not what this evaluation wrote of 'b'"):
            read_objects(out, ["a", "b"], ["psnr"])


def test_a_settings_file_that_holds_no_settings_is_refused_by_name(out):
    for text in ("[]", "{", "5", '"x"', "\0"):
        (out / "settings.json").write_text(text)
        with pytest.raises(UserError, match=r"settings\.json: "):
            open_results(out, {"seed": 0})
