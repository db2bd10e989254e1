"""Whatever a source's file holds costs its object only, and whatever an import's own files hold is one line."""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from commands.import_orbits import import_orbits
from dataset.importers.source import SourceItem
from dataset.importers.work import ImportTask, import_object
from tests.helpers.hostile import mutated_bytes, mutated_tree
from tests.helpers.make_renders import gobjaverse_blobs, write_npy, write_parquet, write_tar, write_transforms
from utils.config import load_config
from utils.errors import UserError
from utils.schemas_import import ImportOrbitsConfig

RING_8 = [(azimuth * 45.0, 10.0) for azimuth in range(8)]
NAMES = [f"{number:05d}.png" for number in range(3000)]
NPY_HEADERS = (
    "{1: 2, 'a': 3}", "{[1]}", "{{}: 1}", "(" * 3900, "-" * 3900 + "1", "[" * 150 + "]" * 150, "lambda: 1", "",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3, 4)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 3000 + ", 4)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (3L, 4L)}",
)  # fmt: skip


def look_at(path: Path, format_: str) -> dict:
    folder = path.parent
    task = ImportTask(folder, format_, folder / "out", folder / "out/.importing", min_views=8, needs_alpha=True)
    return import_object(SourceItem("x", path), task)


def kinds(line: dict) -> set[str]:
    assert json.dumps(line)
    assert all(len(failure["reason"]) < 400 for failure in line["failures"])
    return {failure["kind"] for failure in line["failures"]}


@pytest.mark.parametrize("header", NPY_HEADERS)
def test_a_camera_with_a_header_that_makes_no_sense(header, tmp_path, recwarn):
    write_npy(tmp_path / "x", "car", RING_8)
    data = header.encode()
    (tmp_path / "x/003.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data + bytes(96))
    found = look_at(tmp_path / "x", "npy")
    assert kinds(found) == {"unreadable"} and not found["records"]
    assert not recwarn.list


def tar_header(kind: bytes, size: int, name: str = "x/campos_512_v4/00000/00000.png") -> bytes:
    member = tarfile.TarInfo(name)
    member.type = kind
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


TARS = {
    "names of names": (tar_header(b"L", 1) + b"a".ljust(512, b"\0")) * 3000,
    "headers of headers": (tar_header(b"x", 12) + b"12 path=abc\n".ljust(512, b"\0")) * 3000,
    "a size below zero": tar_header(b"0", -512) * 3,
    "a size that comes back to itself": tar_header(b"0", -1024, "other"),
    "more than there is": tar_header(b"0", 1 << 40),
}


@pytest.mark.parametrize("name", TARS)
def test_a_tar_that_makes_no_sense(name, tmp_path):
    (tmp_path / "x.tar").write_bytes(TARS[name] + bytes(1024))
    assert kinds(look_at(tmp_path / "x.tar", "gobjaverse")) == {"unreadable"}


def test_a_tar_larger_than_an_object_is_not_read(tmp_path):
    with open(tmp_path / "x.tar", "wb") as file:
        file.truncate(1 << 40)
    assert "not one object" in look_at(tmp_path / "x.tar", "gobjaverse")["failures"][0]["reason"]


def test_a_value_that_stands_once_in_a_parquet_file_does_not_fill_memory_with_its_copies(tmp_path):
    values = pyarrow.DictionaryArray.from_arrays(np.zeros(len(NAMES), np.int32), pyarrow.array([bytes(20_000_000)]))
    table = pyarrow.table({"keys": NAMES, "values": values})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", dictionary_pagesize_limit=1 << 30, store_schema=False)
    assert os.path.getsize(tmp_path / "x.parquet") < 2_000_000
    assert "more than" in look_at(tmp_path / "x.parquet", "parquet")["failures"][0]["reason"]


@pytest.mark.parametrize(
    "columns",
    [
        {"view_id": pyarrow.array([], pyarrow.int64()), "image_png": pyarrow.array([], pyarrow.binary())},
        {"view_id": pyarrow.array([2**60], pyarrow.date64()), "image_png": [b""]},
        {"view_id": pyarrow.array([2**62], pyarrow.duration("s")), "image_png": [b""]},
        {"view_id": [None, 1], "image_png": [b"", None]},
        {"keys": [[1]], "values": [b""]},
        {"keys": ["00000.json"], "values": [[b"{}"]]},
        {"\x1b[2J" + "c" * 100_000: [1]},
    ],
)
def test_columns_of_other_types_are_refused(columns, tmp_path):
    write_parquet(tmp_path / "x.parquet", columns)
    assert kinds(look_at(tmp_path / "x.parquet", "parquet")) == {"unreadable"}


def test_damaged_bytes_never_end_the_import(tmp_path):
    blobs = gobjaverse_blobs("car", RING_8)
    tar = write_tar(tmp_path / "x.tar", blobs)
    parquet = write_parquet(tmp_path / "x.parquet", {"keys": [*blobs], "values": [*blobs.values()]})
    for path, format_ in ((tar, "gobjaverse"), (parquet, "parquet")):
        for mutant in mutated_bytes(path.read_bytes(), 60, seed=0):
            path.write_bytes(mutant)
            kinds(look_at(path, format_))


def imports(folder: Path) -> int:
    words = (f"import_orbits.source={folder / 'in'}", f"import_orbits.out={folder / 'out'}")
    words = (*words, "import_orbits.num_processes=1", "import_orbits.sheet_rows=1")
    return import_orbits(load_config(ImportOrbitsConfig, [*words]))


@pytest.mark.parametrize("name", ["svd_meta.jsonl", "failures.jsonl", "objects.jsonl", "accepted.png", "views"])
def test_a_file_that_only_has_our_name_is_not_replaced(name, tmp_path):
    write_transforms(tmp_path / "in", "car", RING_8)
    path = tmp_path / "out" / name
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(UserError, match=f"holds {name}, and no import.json says that it is ours"):
        imports(tmp_path)
    assert path.read_text() == "mine"


def test_a_kill_before_the_settings_and_a_file_managers_notes_are_no_obstacle(tmp_path):
    write_transforms(tmp_path / "in", "car", RING_8)
    (tmp_path / "out").mkdir()
    for name in (".lock", "objects.jsonl", ".import.json.0123abcd.unfinished", ".DS_Store"):
        (tmp_path / "out" / name).touch()
    assert imports(tmp_path) == 0
    assert not (tmp_path / "out/.import.json.0123abcd.unfinished").exists()


@pytest.mark.parametrize("name", ["import.json", "objects.jsonl"])
def test_an_imports_own_files_with_wrong_types_are_one_line(name, tmp_path):
    write_transforms(tmp_path / "in", "car", RING_8)
    imports(tmp_path)
    path = tmp_path / "out" / name
    whole = path.read_text()
    for mutant in mutated_tree(json.loads(whole), 60, seed=0):
        path.write_text(json.dumps(mutant) + "\n")
        try:
            assert imports(tmp_path) == 0
        except UserError as error:
            assert len(str(error)) < 2000
        path.write_text(whole)
