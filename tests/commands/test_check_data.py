"""`check.data=true` finds what is wrong with orbits, each fault at its line, and says nothing of good ones."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands.check import check, warn_of_size
from commands.check_data import check_data, ranges
from dataset.turning import judge_set, starts_further
from rendering.solids import render_view
from utils.errors import UserError

DUMMY = [json.loads(line) for line in Path("svd_meta.jsonl").read_text().splitlines()]


@pytest.fixture
def look(tmp_path, tiny_config, capfd):
    """Check lines as data.meta. Return whether training would end, and what was printed of each place. `root` may get images."""
    root = tmp_path / "root"
    root.mkdir()
    for folder in Path("dummy_objaverse").absolute().glob("[0-9]*"):
        os.symlink(folder, root / folder.name)

    def run(records: list, *words: str) -> tuple[bool, dict[str, list[str]]]:
        meta = tmp_path / "meta.jsonl"
        meta.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
        ends = check_data(tiny_config(f"data.root={root}", f"data.meta={meta}", "check.data=true", *words))
        found: dict[str, list[str]] = {}
        for line in capfd.readouterr().out.splitlines():
            place, _, rest = line.partition(": ")
            found.setdefault(place.removeprefix(f"{meta}:"), []).append(rest)
        return ends, found

    run.root = root
    run.meta = tmp_path / "meta.jsonl"
    return run


def altered(record: dict, name: str, **changes) -> dict:
    return record | {"id": name} | changes


def kinds(found: dict[str, list[str]], place: str) -> list[str]:
    return [text.partition(":")[0] for text in found.get(place, [])]


def test_nothing_is_said_of_the_dummy_set_and_its_clean_lines_are_the_file(tmp_path, look):
    ends, found = look(DUMMY, "data.num_workers=2", f"check.write_clean={tmp_path}/clean.jsonl")
    assert not ends and "no problem was found in the data" in found
    assert (tmp_path / "clean.jsonl").read_bytes() == look.meta.read_bytes()


def test_each_fault_is_named_at_its_line_and_all_other_lines_are_clean(tmp_path, look):
    new = look.root / "new"
    new.mkdir()
    view = Image.open(look.root / DUMMY[3]["image_path"][5])
    view.resize((64, 64)).save(new / "small.png")
    Image.new("RGBA", view.size).save(new / "empty.png")
    Image.new("RGB", view.size, "gray").save(new / "gray.png")
    (new / "damaged.png").write_bytes(Path(view.filename).read_bytes()[:2000])
    paths = [record["image_path"] for record in DUMMY]
    shuffled = np.random.default_rng(0).permutation(21)

    def with_view(number: int, place: int, path: str) -> list[str]:
        return [path if view == place else old for view, old in enumerate(paths[number])]

    faults = [
        ([], DUMMY[0]),
        (["line"], "no record"),
        (["image"], altered(DUMMY[1], "missing", image_path=with_view(1, 3, "new/none.png"))),
        (["image"], altered(DUMMY[2], "damaged", image_path=with_view(2, 3, "new/damaged.png"))),
        (["sizes"], altered(DUMMY[3], "sizes", image_path=with_view(3, 5, "new/small.png"))),
        (["empty"], altered(DUMMY[4], "empty", image_path=with_view(4, 5, "new/empty.png"))),
        (["empty"], altered(DUMMY[5], "gray", image_path=with_view(5, 5, "new/gray.png"))),
        (["repeated"], altered(DUMMY[6], "repeated", image_path=with_view(6, 9, paths[6][8]))),
        (["repeated"], altered(DUMMY[7], "still", image_path=paths[7][:1] * 21)),
        (["order"], altered(DUMMY[8], "shuffled", image_path=[paths[8][view] for view in shuffled])),
        ([], altered(DUMMY[9], "starts elsewhere", image_path=paths[9][8:] + paths[9][:8])),
        (["twice"], altered(DUMMY[9], "under another name")),
        (["twice"], altered(DUMMY[10], DUMMY[0]["id"])),
        (["turn"], altered(DUMMY[11], "backwards", image_path=paths[11][::-1])),
        ([], altered(DUMMY[12], "steep", elevation=[45.0] * 21)),
    ]
    words = (f"check.report={tmp_path}/report", f"check.write_clean={tmp_path}/clean.jsonl")
    ends, found = look([line for _, line in faults], *words)
    assert ends
    for number, (expected, _) in enumerate(faults, start=1):
        assert kinds(found, str(number)) == expected, (number, found.get(str(number)))
    assert found[str(look.meta)] == [
        "elevation: outside the -5 to 30 degrees of the paper: 1 of 14 orbits, in lines 15"
    ]
    good = [json.dumps(line) for expected, line in faults if not expected]
    assert (tmp_path / "clean.jsonl").read_text().splitlines() == good
    listed = (tmp_path / "report/problems.txt").read_text().splitlines()
    assert len(listed) == sum(len(expected) for expected, _ in faults) + 1
    drawn = {name: Image.open(tmp_path / "report" / name).height // 98 for name in ("orbits.png", "problems.png")}
    assert drawn == {"orbits.png": 14 + 4, "problems.png": len(listed) - 2}, "a line that is no record has no views"


def test_warnings_alone_do_not_end_training(look):
    ends, found = look([altered(DUMMY[0], "still", image_path=DUMMY[0]["image_path"][:1] * 21)])
    assert not ends and kinds(found, "1") == ["repeated"]


def test_what_would_end_training_is_exit_code_1(tmp_path, tiny_config):
    (tmp_path / "meta.jsonl").write_text("no record\n")
    assert check(tiny_config(f"data.meta={tmp_path}/meta.jsonl", "check.data=true")) == 1


def test_of_a_set_that_turns_the_wrong_way_the_set_is_named_and_not_its_orbits(look):
    backwards = [record | {"image_path": record["image_path"][::-1]} for record in DUMMY]
    ends, found = look(backwards)
    [text] = found[str(look.meta)]
    assert not ends and text.startswith("turn: the camera goes the wrong way around")
    assert not any(place.isdecimal() for place in found)


def rings(root: Path, name: str, *drawn: tuple[float, int, float]) -> list[dict]:
    """Draw an object in rings: from an elevation, with so many views, the first of them at an azimuth."""
    records = []
    (root / name).mkdir(exist_ok=True)
    for number, (elevation, num_views, start_deg) in enumerate(drawn):
        paths = [f"{name}/{number}_{view}.png" for view in range(num_views)]
        for view, path in enumerate(paths):
            image = render_view(name, view * 360 / num_views + start_deg, elevation, 64)
            Image.fromarray(image).save(root / path)
        records.append({"id": f"{name}/ring_{number}", "image_path": paths, "elevation": [elevation] * num_views})
    return records


def test_rings_of_an_object_that_start_at_different_azimuths_are_named(tmp_path, look):
    backwards = rings(look.root, "lamp", (5.0, 24, 0), (20.0, 24, 0))
    backwards[1]["image_path"] = backwards[1]["image_path"][::-1]
    lines = [
        *rings(look.root, "car", (5.0, 24, 0), (30.0, 12, 90)),
        *rings(look.root, "duck", (10.0, 24, 0), (25.0, 12, 0), (0.0, 36, 120)),
        *rings(look.root, "chair", (0.0, 24, 90), (20.0, 24, 0)),
        *backwards,
    ]
    ends, found = look(lines, "data.num_frames=3", f"check.write_clean={tmp_path}/clean.jsonl")
    assert not ends
    starts = {place: kinds(found, place).count("start") for place in found if place.isdecimal()}
    assert {place for place, count in starts.items() if count} == {"2", "5", "7"}
    assert found["2"][0].startswith("start: starts about +90 degrees from where car/ring_0 of")
    assert found["5"][0].startswith("start: starts about +120 degrees from where duck/ring_0 of")
    assert found["7"][0].startswith("start: starts about -90 degrees from where chair/ring_0 of")
    clean = [json.loads(line)["id"] for line in (tmp_path / "clean.jsonl").read_text().splitlines()]
    assert clean[:4] == ["car/ring_0", "duck/ring_0", "duck/ring_1", "chair/ring_0"]


@pytest.mark.parametrize("counts", [(84, 21), (36, 24), (63, 42), (24, 24)])
def test_rings_of_any_numbers_of_views_with_enough_in_common_are_compared(counts):
    def ring(num_views: int, start_deg: float) -> np.ndarray:
        angles = np.radians(start_deg) + np.arange(num_views) * 2 * np.pi / num_views
        columns = np.arange(64)
        return np.clip(1 - abs(columns - 32 - 20 * np.cos(angles)[:, None]) / (8 + 6 * np.sin(angles)[:, None]), 0, 1)

    assert starts_further(ring(counts[0], 0), ring(counts[1], 0)) is None
    assert starts_further(ring(counts[0], 0), ring(counts[1], 120)) == pytest.approx(120)
    assert starts_further(ring(counts[0], 120), ring(counts[1], 0)) == pytest.approx(-120)


def test_orbits_that_do_not_close_are_named_as_a_set(look):
    parts = [
        record | {"image_path": record["image_path"][:14], "elevation": record["elevation"][:14]} for record in DUMMY
    ]
    _, found = look(parts, "data.num_frames=14", f"validation.meta={look.meta}")
    assert any("may not go all the way around" in text for text in found[str(look.meta)])


def test_held_out_orbits_outside_the_training_elevations_and_in_its_file_are_named(look):
    held_out = look.meta.with_name("held_out.jsonl")
    held_out.write_text(json.dumps(DUMMY[1] | {"elevation": [-4.5] * 21}) + "\n" + json.dumps(DUMMY[0]) + "\n")
    _, found = look([DUMMY[0] | {"elevation": [10.0] * 21}], f"validation.meta={held_out}")
    text = "elevation: outside the 10 to 10 degrees of the training orbits: 2 of 2 orbits, in lines 1-2"
    assert found[str(held_out)] == [text]
    assert found[f"{held_out}:2"] == [
        f"twice: has the id of {look.meta}:1, the first image of {look.meta}:1, the pixels of {look.meta}:1"
    ]


def test_the_clean_lines_never_replace_what_is_checked(look):
    with pytest.raises(UserError, match="is what is checked"):
        look(DUMMY[:1], f"check.write_clean={look.meta.parent}/./meta.jsonl")


def test_a_set_is_judged_by_its_majority_and_only_when_that_is_certain():
    assert judge_set([3.0] * 90 + [-3.0] * 3 + [-1.0] * 50) == (1, None)
    assert judge_set([-3.0] * 5)[0] == 1, "five of five may be chance"
    assert judge_set([-3.0] * 12)[0] == -1
    way, text = judge_set([3.0] * 70 + [-3.0] * 30)
    assert way == 1 and text.startswith("part of the orbits")


def test_ranges_name_every_number():
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"


def test_a_size_far_from_the_bases_is_warned_of(tiny_config, capsys):
    for size_px, warned in ((32, False), (64, False), (576, True), (24, True)):
        warn_of_size(tiny_config(f"data.size_px={size_px}"))
        assert ("far from the 64 pixels" in capsys.readouterr().out) == warned
