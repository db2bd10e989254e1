"""Generated assets that no check foresaw: each is one failure, within the limits, and the run goes on."""

import io
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from rendering.failure import Failure
from rendering.queue import process
from rendering.queue.process import Limits, Stopped, check_in_process
from rendering.quick.mesh import load_mesh
from rendering.safety.asset import check_asset
from tests.helpers.make_assets import box, gltf, make_good, obj, texture
from utils.errors import MAX_REASON
from utils.images import IMAGE_FORMATS

MAX_BYTES = 512 << 20
NUM_MUTANTS = 1500
NUM_IN_PROCESSES = 8


def outcome(asset: Path, folder: Path, time_s: float = 20, memory_gib: float = 1) -> str:
    """Return the kind of failure and its reason, or "passed". Anything but a Failure is an error of this test."""
    folder.mkdir(exist_ok=True)
    try:
        check_in_process(asset, folder, MAX_BYTES, Limits(time_s, memory_gib))
    except Failure as failure:
        assert 0 < len(failure.reason) <= MAX_REASON and failure.reason.isprintable()
        return f"{failure.kind}: {failure.reason}"
    return "passed"


# What a check does instead of checking, as Python, and how that must end.
ENDS = {
    "raise OverflowError('int too large')": "crashed: exit code 1: OverflowError: int too large",
    "raise ValueError('Exceeds the limit (4300 digits)')": "crashed: exit code 1: ValueError: Exceeds the limit",
    "raise NotImplementedError": "crashed: exit code 1: NotImplementedError",
    "raise KeyboardInterrupt": "crashed: ",
    "raise MemoryError": "crashed: exit code 1: MemoryError",
    "raise BaseException('odd')": "crashed: exit code 1: BaseException: odd",
    "import sys; sys.exit(0)": "crashed: ended without a result",
    "import sys; sys.exit(2)": "crashed: exit code 2: no message",
    "import os; os.abort()": "crashed: killed by SIGABRT",
    "import time; time.sleep(60)": "timeout: took more than 1.5 s",
    "import re; re.match(r'(a*)*b', 'a' * 60)": "timeout: took more than 1.5 s",
    "import time; block = b'x' * (900 << 20); time.sleep(60)": "memory: took more than 0.5 GiB",
}


@pytest.mark.parametrize("action", ENDS)
def test_whatever_a_check_does_is_one_failure(action, tmp_path, monkeypatch):
    script = tmp_path / "worker.py"
    place = str(Path(__file__).parents[2])
    script.write_text(
        f"import sys\nsys.path.insert(0, {place!r})\nfrom rendering.safety import worker\n"
        f"def check(*_):\n    {action}\nworker.check_asset = check\nworker.main(sys.argv[1])\n"
    )
    monkeypatch.setattr(process, "_CHECK", script)
    time_s = 1.5 if "timeout" in ENDS[action] else 20
    assert outcome(tmp_path / "a.glb", tmp_path, time_s, memory_gib=0.5).startswith(ENDS[action])


def huge_gltf(folder: Path, image: dict, count: int) -> Path:
    tree, data = gltf(box(1, 1, 1), texture(0))
    tree["buffers"][0]["uri"] = "data.bin"
    (folder / "data.bin").write_bytes(data)
    text = json.dumps(tree | {"images": []})
    (folder / "a.gltf").write_text(text.replace('"images": []', f'"images": [{",".join([json.dumps(image)] * count)}]'))
    return folder / "a.gltf"


def huge_obj(folder: Path, text: bytes) -> Path:
    (folder / "a.obj").write_bytes(text)
    return folder / "a.obj"


def sparse_library(folder: Path) -> Path:
    with open(folder / "big.mtl", "wb") as file:
        file.truncate(5 << 30)
    return huge_obj(folder, b"mtllib big.mtl\n" + obj(box(1, 1, 1)).encode())


def library(folder: Path, text: bytes) -> Path:
    (folder / "paint.mtl").write_bytes(text)
    return huge_obj(folder, b"mtllib paint.mtl\n" + obj(box(1, 1, 1)).encode())


HUGE = {
    "line breaks": (lambda folder: huge_obj(folder, b"\n" * 300_000), "unreadable: not an .obj file"),
    "blanks": (lambda folder: huge_obj(folder, b" \r" * 10**6 + b"\nx" * 10**6), "unreadable: not an .obj file"),
    "mtllib lines": (
        lambda folder: huge_obj(folder, b"v 0 0 0\n" + b"mtllib a.mtl\n" * 10**6),
        "unreadable: names more .mtl files than 4,096",
    ),
    "mtllib words": (
        lambda folder: huge_obj(folder, b"v 0 0 0\nmtllib" + b" a.mtl" * 2 * 10**5),
        "unreadable: names more .mtl files than 4,096",
    ),
    "backslashes": (lambda folder: huge_obj(folder, b"\\\n" * 10**6), "unreadable: not an .obj file"),
    "textures": (
        lambda folder: library(folder, b"newmtl a\n" + b"".join(b"map_Kd %d.png\n" % n for n in range(10**4))),
        "unreadable: names 10,000 textures",
    ),
    "options": (
        lambda folder: library(folder, b"newmtl a\nmap_Kd" + b" -clamp on" * 2 * 10**5 + b" a.png\n"),
        "unreadable: names the file 'a.png', which is missing",
    ),
    "sparse library": (sparse_library, "unreadable: an .mtl of more than 64 MiB"),
    "buffers": (
        lambda folder: huge_obj(
            folder, b'{"asset": {"version": "2.0"}, "buffers": [' + b"{}," * 10**5 + b"{}]}"
        ).rename(folder / "b.gltf"),
        "unreadable: holds 100,001 buffers",
    ),
    "images of a file": (
        lambda folder: huge_gltf(folder, {"uri": "a.png"}, 10**6),
        "unreadable: holds 1,000,000 images",
    ),
    "images of a view": (
        lambda folder: huge_gltf(folder, {"bufferView": 4}, 10**5),
        "unreadable: holds 100,000 images",
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_an_asset_of_a_million_parts_is_one_failure_soon(name, tmp_path):
    make, expected = HUGE[name]
    asset = make(tmp_path)
    assert outcome(asset, tmp_path / "check").startswith(expected)


def test_a_stop_ends_a_check_at_once(tmp_path, monkeypatch):
    (tmp_path / "worker.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(process, "_CHECK", tmp_path / "worker.py")
    started = time.monotonic()
    with pytest.raises(Stopped):
        check_in_process(
            tmp_path / "a.glb", tmp_path, MAX_BYTES, Limits(60, 1), lambda: time.monotonic() - started > 0.3
        )
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "name", [b"\xff.mtl", b"\x1b]0;title\x07.mtl", b"x" * 10**5, b"\xff" * 10**4, "\u202e.mtl".encode()]
)
def test_a_reason_is_one_short_printable_line_whatever_an_asset_names(name, tmp_path):
    found = outcome(huge_obj(tmp_path, b"v 0 0 0\nmtllib " + name + b"\n"), tmp_path / "check")
    assert found.startswith("unreadable: names the file '") and found.isprintable() and len(found) <= 320


NUMBERS = [b"9" * 400, b"9" * 5000, b"-1", b"1e400", b"0.5", b"NaN", b"true", b"null", b'"many"', b"[]", b"{}", b"00"]
HEADERS = [
    b"DDS |" + bytes(120),
    b"\0\0\0\x1cftypavif" + bytes(60),
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
]


def mutants(good: Path, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of each good asset with one to three things wrong."""
    chance = random.Random(0)
    sources = [path for path in sorted(good.rglob("*")) if path.suffix in (".glb", ".gltf", ".obj", ".ply", ".stl")]
    for _ in range(count):
        source = chance.choice(sources)
        data = source.read_bytes()
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(data))
            kind = chance.choice(("number", "number", "bytes", "cut", "again", "image"))
            digits = list(re.finditer(rb"(?<![\w.])\d+(?![\w.])", data))
            if kind == "number" and digits:
                found = chance.choice(digits)
                data = data[: found.start()] + chance.choice(NUMBERS) + data[found.end() :]
            elif kind == "cut":
                data = data[: place + 1]
            elif kind == "again":
                data = data[:place] + data[place : place + 40] * chance.randint(2, 9) + data[place:]
            elif kind == "image":
                data = data.replace(b"\x89PNG\r\n\x1a\n", chance.choice(HEADERS))
            else:
                data = data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
        yield str(source.relative_to(good)), data


def test_a_mutated_asset_passes_or_is_a_failure_and_so_in_a_process_of_its_own(tmp_path):
    """The function itself judges all of them here. Some, and those for which it raises something else, go into a process too."""
    make_good(tmp_path)
    counts = Counter()
    again = []
    for number, (name, data) in enumerate(mutants(tmp_path, NUM_MUTANTS)):
        path = (tmp_path / name).with_stem("mutant")
        path.write_bytes(data)
        found = "passed"
        try:
            check_asset(path, MAX_BYTES)
        except Failure as failure:
            assert 0 < len(failure.reason) <= MAX_REASON and failure.reason.isprintable()
            found = f"{failure.kind}: {failure.reason}"
        except Exception:
            found = "crashed: exit code 1: "
        counts[found.partition(":")[0]] += 1
        if found.startswith("crashed") or number % (NUM_MUTANTS // NUM_IN_PROCESSES) == 0:
            again.append((path, data, found))
    assert counts["unreadable"] > NUM_MUTANTS / 4 and counts["passed"] > NUM_MUTANTS / 4, counts
    for path, data, found in again[: 2 * NUM_IN_PROCESSES]:
        path.write_bytes(data)
        assert outcome(path, tmp_path / "check").startswith(found)


def pictures() -> dict[str, bytes]:
    """Return a small picture in every format that Pillow writes."""
    Image.init()
    found = {}
    for name in Image.SAVE:
        buffer = io.BytesIO()
        try:
            Image.new("RGB", (8, 8), "red").save(buffer, name)
        except (OSError, ValueError, KeyError):  # formats of another mode, or that need another library
            continue
        found[name] = buffer.getvalue()
    return found


def with_texture(folder: Path, data: bytes, kind: str) -> Path:
    (folder / "a.png").write_bytes(data)
    if kind == "obj":
        return library(folder, b"newmtl paint\nmap_Kd a.png\n")
    tree, binary = gltf(box(1, 1, 1), texture(0), "a.png")
    if kind == "view":
        tree, binary = gltf(box(1, 1, 1), data)
    (folder / "data.bin").write_bytes(binary)
    tree["buffers"][0]["uri"] = "data.bin"
    (folder / "a.gltf").write_text(json.dumps(tree))
    return folder / "a.gltf"


@pytest.mark.parametrize("kind", ["obj", "file", "view"])
def test_textures_are_opened_in_formats_of_a_list_only_whatever_they_are_called(kind, tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # whether there is one is looked up again
    with suppress(OSError), Image.open(io.BytesIO(pictures()["EPS"])) as image:
        image.load()
    (tmp_path / "ran").unlink()  # so Pillow runs it where nothing keeps it from doing so
    opened = set()
    for name, data in pictures().items():
        asset = with_texture(tmp_path, data, kind)
        try:
            check_asset(asset, MAX_BYTES)
            load_mesh(asset, "y", 1e9)
        except Failure as failure:
            assert "no image of a known kind" in failure.reason, name
        else:
            opened.add(name)
    assert {"PNG", "JPEG", "WEBP"} <= opened <= {*IMAGE_FORMATS, "MPO"}  # an MPO is a JPEG with more behind it
    assert not (tmp_path / "ran").exists()
