import json
import tracemalloc

import pytest

from dataset.records import Records, in_both
from tests.helpers.hostile import ODD_VALUES, mutated_bytes, mutated_tree
from utils.errors import UserError


def line(**changes) -> str:
    record = {"image_path": [f"a/{view:03d}.png" for view in range(6)], "elevation": [10.0] * 6} | changes
    return json.dumps({key: value for key, value in record.items() if value is not None})


@pytest.fixture
def records(tmp_path):
    def records(*lines: str, num_frames=3) -> Records:
        path = tmp_path / "meta.jsonl"
        path.write_bytes("\n".join(lines).encode() if lines and isinstance(lines[0], str) else lines[0])
        return Records(path, num_frames)

    return records


def test_a_line_becomes_a_record_and_further_keys_are_ignored(records):
    first, second = records(line(id="chair", licence="CC0"), "", line(elevation=[10, 10.2, 10, 10, 10, 9.9]))
    assert (first.id, len(first.image_paths), first.elevations_deg[0]) == ("chair", 6, 10.0)
    assert second.id == "a" and second.elevations_deg[1] == 10.2 and second.place.endswith("meta.jsonl:3")


def test_the_dummy_dataset_is_sixteen_and_four_records_spread_over_the_elevations():
    training = Records("svd_meta.jsonl", 21)
    held_out = Records("svd_meta_held_out.jsonl", 21)
    assert (len(training), len(held_out)) == (16, 4)
    elevations = sorted(record.elevations_deg[0] for record in training)
    assert elevations[0] == -5 and elevations[-1] == 30 and max(b - a for a, b in zip(elevations, elevations[1:])) < 4
    assert not {record.id for record in training} & {record.id for record in held_out}


@pytest.mark.parametrize(
    ("bad", "fragment"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "expected an object"),
        ("{}", "'image_path' must be a list, one entry per view; it is missing"),
        (line(elevation=None), "'elevation' must be a list"),
        (line(elevation=10), "'elevation' must be a list"),
        (line(image_path=[]), "an orbit holds 3 views or a multiple of it, found 0"),
        (line(image_path=["a.png"] * 5), "found 5"),
        (line(elevation=[1.0] * 5), "expected 6 elevations, found 5"),
        (line(elevation=[0, 0, 0, 0, 0, 0.6]), "elevations vary by 0.6 degrees"),
        (line(elevation=[91] * 6), "in [-90, 90], found 91"),
        (line(elevation=[float("nan")] * 6), "found nan"),
        (line(elevation=[True] * 6), "found True"),
        (line(elevation=[1.0, True, 1.0, 1.0, 1.0, 1.0]), "found True"),
        (line(elevation=[0.0, float("nan"), 0.0, 0.0, 0.0, 0.0]), "found nan"),
        (line(elevation=[10**400] * 6), "in [-90, 90]"),
        ("[" * 100_000, "not JSON"),
        (line(elevation=["10"] * 6), "found '10'"),
        (line(image_path=["../x.png"] * 6), "'../x.png' leaves data.root"),
        (line(image_path=["a/../../x.png"] * 6), "leaves data.root"),
        (line(image_path=["/etc/passwd"] * 6), "leaves data.root"),
        (line(image_path=["..\\x.png"] * 6), "leaves data.root"),
        (line(image_path=[""] * 6), "expected an image path"),
        (line(image_path=[7] * 6), "expected an image path, found 7"),
        (line(image_path=["a.png"] * 5 + ["/etc/passwd"]), "'/etc/passwd' leaves data.root"),
        (line(image_path=["a.png"] * 5 + [""]), "expected an image path"),
        (line(image_path=["a\0.png"] + ["a.png"] * 5), "expected an image path"),
        (line(id=[1]), "'id' must be"),
    ],
)
def test_a_malformed_line_is_one_error_naming_file_and_line(records, bad, fragment):
    with pytest.raises(UserError) as error:
        records(line(), bad)
    assert "meta.jsonl:2: " in str(error.value) and fragment in str(error.value) and "\n" not in str(error.value)


def test_dots_and_line_breaks_in_a_name_are_no_way_out(records):
    names = [f"a..b/..c\n/{view}..png" for view in range(6)]
    assert records(line(image_path=names))[0].image_paths == tuple(names)


def test_bytes_that_are_not_text_name_the_line(records):
    with pytest.raises(UserError, match=r"meta\.jsonl:1: not UTF-8 text; it looks like UTF-16"):
        records(b"\xff\xfe{}\n")


def test_a_file_that_is_missing_or_empty_is_named(records, tmp_path):
    with pytest.raises(UserError, match=r"absent\.jsonl: cannot be read"):
        Records(tmp_path / "absent.jsonl", 3)
    with pytest.raises(UserError, match="holds no record"):
        records("", "  ")


def test_a_hundred_thousand_records_take_little_memory(tmp_path):
    path = tmp_path / "big.jsonl"
    with open(path, "w") as file:
        for number in range(100_000):
            file.write(line(id=f"object-{number}") + "\n")
    tracemalloc.start()
    records = Records(path, 3)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(records) == 100_000 and records[99_999].id == "object-99999" and records[12_345].place.endswith(":12346")
    assert held < 4 * 2**20, f"{held} bytes"


def test_a_mutated_line_is_a_record_or_one_short_error(tmp_path):
    path = tmp_path / "meta.jsonl"
    mutants = [json.dumps(mutant).encode() for mutant in mutated_tree(json.loads(line(id="chair")), 400, seed=0)]
    mutants += mutated_bytes(line(id="chair").encode(), 400, seed=1)
    mutants += [json.dumps(value).encode() for value in ODD_VALUES if value != 10**400]
    refused = 0
    for mutant in mutants:
        path.write_bytes(mutant)
        try:
            for record in Records(path, 3):
                assert len(record.image_paths) % 3 == 0 and all(-90 <= angle <= 90 for angle in record.elevations_deg)
                assert not any(name.startswith("/") or ".." in name.split("/") for name in record.image_paths)
                record.id.encode()
        except UserError as error:
            refused += 1
            assert str(error).startswith(str(path)) and len(str(error)) < 600 + len(str(path))
    assert refused > 400


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_other_encodings_are_refused_by_name_and_a_mark_of_utf8_is_not(records, encoding):
    text = (line(id="chair") + "\n" + line(id="table") + "\n").encode(encoding)
    if encoding == "utf-8-sig":
        assert [record.id for record in records(text)] == ["chair", "table"]
    else:
        with pytest.raises(UserError, match=r"meta\.jsonl:1: .*looks like UTF-16"):
            records(text)


def test_a_file_that_goes_away_during_a_run_is_one_error(records):
    opened = records(line())
    opened.path.unlink()
    with pytest.raises(UserError, match=r"meta\.jsonl: cannot be read: no such file"):
        opened[0]


def test_records_of_both_files_are_found_by_id_or_by_first_image(tmp_path):
    def write(name, *lines):
        (tmp_path / name).write_text("\n".join(lines))
        return Records(tmp_path / name, 3)

    other = [f"b/{view}.png" for view in range(6)]
    training = write("training.jsonl", line(id="chair"), line(id="lamp", image_path=other))
    assert in_both(training, write("a.jsonl", line(id="chair", image_path=["c.png"] * 6))) == ["chair"]
    assert in_both(training, write("b.jsonl", line(id="renamed", image_path=other), line(id="chair"))) == [
        "chair",
        "renamed",
    ]
    assert in_both(training, write("c.jsonl", line(id="new", image_path=["c.png"] * 6))) == []


def test_what_describes_the_records_tells_other_lines_and_another_order_apart(tmp_path):
    found = []
    for order in ("abc", "acb", "abd", "abc"):
        text = "".join(f'{{"image_path": ["{name}/0.png"], "elevation": [1.0]}}\n' for name in order)
        (tmp_path / "meta.jsonl").write_text(text)
        found.append(Records(tmp_path / "meta.jsonl", 1).description)
    assert found[0] == found[3] and len({each["sha256"] for each in found}) == 3
    assert {each["count"] for each in found} == {3}
