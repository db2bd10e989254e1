import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from commands.index_archives import index_archives
from dataset.archives import read_views
from dataset.records import Records, parse_record
from dataset.views import WHITE, load_orbit, try_images
from tests.helpers.archives import pack
from tests.helpers.orbits import NUM_RECORDS, write_orbits
from utils.config import load_config
from utils.errors import UserError
from utils.schemas_import import IndexArchivesConfig


@pytest.fixture
def data(tmp_path):
    return write_orbits(tmp_path, "set/{record}/{view}.png")


def index(data, name="archived.jsonl"):
    """Run the command, and return the settings to train with."""
    out = data.meta.replace("meta.jsonl", name)
    words = (f"root={data.root}", f"meta={data.meta}", f"out={out}")
    index_archives(load_config(IndexArchivesConfig, [f"index_archives.{word}" for word in words]))
    return data.model_copy(update={"meta": out})


def line(archive, num_views=2):
    paths = [f"a/{view}.png" for view in range(num_views)]
    record = {"image_path": paths, "elevation": [1.0] * num_views, "archive": archive}
    return json.dumps(record).encode()


GOOD = {"path": "a.tar", "size": 4096, "members": [[0, 1000], [2048, 3000]]}


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"path": "../a.tar"}, "inside data.root"),
        ({"path": "/a.tar"}, "inside data.root"),
        ({"path": "a.tar.gz"}, "must be a .tar or .zip"),
        ({"path": "a\0.tar"}, "inside data.root"),
        ({"path": None}, "inside data.root"),
        ({"size": -1}, "archive.size"),
        ({"size": True}, "archive.size"),
        ({"size": 2**70}, "archive.size"),
        ({"size": 2999}, r"no view can lie at \[2048, 3000\] of 2,999 bytes"),
        ({"members": [[0, 1000]]}, "a list of 2 pairs"),
        ({"members": [[0, 1000], [5, 5]]}, "no view can lie"),
        ({"members": [[-1, 1000], [5, 6]]}, "no view can lie"),
        ({"members": [[0, 1000], [5.0, 6]]}, "expected"),
        ({"members": [[0, 1000], [5, 6, 7]]}, "expected"),
        ({"size": 2**40, "members": [[0, 2**29], [5, 6]]}, "no view can lie"),
        ({"size": 2**40, "members": [[0, 9], [2**31, 2**31 + 9]]}, "bytes apart"),
    ],
)
def test_what_cannot_lie_in_an_archive_is_refused_with_file_and_line(change, fragment):
    assert parse_record(line(GOOD), "m.jsonl:7", 2).archive.members == ((0, 1000), (2048, 3000))
    with pytest.raises(UserError, match=f"^m.jsonl:7: .*{fragment}"):
        parse_record(line(GOOD | change), "m.jsonl:7", 2)


@pytest.mark.parametrize("form", ["ustar", "pax", "gnu", "zip"])
@pytest.mark.parametrize("whole", [False, True])
def test_views_from_an_archive_are_those_from_files(data, tmp_path, form, whole):
    """Whole: one archive of all orbits. Python's pax headers, with the file's time, stand before the plain ones."""
    folders = ["set"] if whole else [f"set/{record}" for record in range(NUM_RECORDS)]
    for folder in folders:
        pack(tmp_path, folder, form)
    archived = index(data)
    for record, packed in zip(Records(data.meta, 4), Records(archived.meta, 4), strict=True):
        assert (packed.id, packed.image_paths, packed.elevations_deg) == (
            record.id,
            record.image_paths,
            record.elevations_deg,
        )
        files = [(tmp_path / path).read_bytes() for path in record.image_paths]
        assert read_views(packed.archive, packed.image_paths, range(8), archived) == files
        assert load_orbit(packed, archived, 3, WHITE).pixels.equal(load_orbit(record, data, 3, WHITE).pixels)


def test_members_may_be_called_like_the_end_of_the_path(data, tmp_path):
    for record in range(NUM_RECORDS):
        with zipfile.ZipFile(tmp_path / f"set/{record}.zip", "w") as archive:
            for path in (tmp_path / f"set/{record}").iterdir():
                archive.write(path, path.name)
    try_images(Records(index(data).meta, 4), data)


def test_an_archive_that_was_written_anew_is_noticed(data, tmp_path):
    for record in range(NUM_RECORDS):
        pack(tmp_path, f"set/{record}", "ustar")
    records = Records(index(data).meta, 4)
    path = tmp_path / "set/1.tar"
    content = path.read_bytes()
    path.write_bytes(content + bytes(512))
    with pytest.raises(UserError, match=r"archived.jsonl:2: .*1\.tar: has .* bytes instead of .*index_archives"):
        load_orbit(records[1], data, 0, WHITE)
    path.write_bytes(content[1024:] + content[:1024])
    with pytest.raises(UserError, match=r"archived.jsonl:2: .*1\.tar: holds .* where its line says that 'set/1/"):
        load_orbit(records[1], data, 0, WHITE)
    path.unlink()
    with pytest.raises(UserError, match=r"archived.jsonl:2: .*1\.tar: cannot be read: no such file"):
        load_orbit(records[1], data, 0, WHITE)


def test_views_of_the_same_size_in_another_order_are_noticed(data, tmp_path):
    for record in range(NUM_RECORDS):
        pack(tmp_path, f"set/{record}", "ustar")
    lines = [json.loads(line) for line in Path(index(data).meta).read_text().splitlines()]
    lines[0]["archive"]["members"].reverse()
    (tmp_path / "turned.jsonl").write_text(json.dumps(lines[0]))
    with pytest.raises(UserError, match=r"holds 'set/0/7\.png' of .* where its line says that 'set/0/0\.png' is"):
        load_orbit(Records(tmp_path / "turned.jsonl", 4)[0], data, 0, WHITE)


def test_only_plain_stored_members_are_taken(data, tmp_path):
    with zipfile.ZipFile(tmp_path / "set/0.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "set/0").iterdir():
            archive.write(path, path.name)
    with pytest.raises(UserError, match=r"meta\.jsonl:1: .*0\.zip: holds no plain stored file"):
        index(data)
    (tmp_path / "set/0.zip").unlink()
    with tarfile.open(tmp_path / "set/0.tar", "w") as archive:
        for view in range(8):
            member = tarfile.TarInfo(f"{view}.png")
            member.type = tarfile.SYMTYPE
            member.linkname = "/etc/passwd"
            archive.addfile(member)
    with pytest.raises(UserError, match=r"meta\.jsonl:1: .*0\.tar: holds no plain file set/0/0\.png"):
        index(data)
    with tarfile.open(tmp_path / "set/0.tar", "w:gz") as archive:
        archive.add(tmp_path / "set/0", "0")
    with pytest.raises(UserError, match=r"meta\.jsonl:1: .*0\.tar: is no uncompressed tar"):
        index(data)
    (tmp_path / "set/0.tar").unlink()
    with pytest.raises(UserError, match=r"meta\.jsonl:1: there is no set/0\.tar or set/0\.zip in"):
        index(data)
    assert not (tmp_path / "archived.jsonl").exists()
