"""What is kept on the disk: how often it is fetched, how much of it there is, and what a kill leaves."""

import json
import multiprocessing
import os
import random
import signal
import time

import pytest

import dataset.local_copies
from dataset.line_index import index_path
from dataset.local_copies import RecentFiles, fetch, fetch_range, keep_copy
from dataset.records import Records
from tests.helpers.web import serving
from utils import retries
from utils.errors import UserError
from utils.schemas import DataSettings

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    with serving() as server:
        yield server


@pytest.fixture
def data(tmp_path, web):
    return DataSettings(root=web.url, meta=f"{web.url}/meta.jsonl", local_cache=str(tmp_path), local_cache_gib=1)


def lines(count: int) -> bytes:
    records = [{"image_path": [f"{n}/{v}.png" for v in range(3)], "elevation": [n % 30] * 3} for n in range(count)]
    return "\n".join(map(json.dumps, records)).encode()


def size_of(folder) -> int:
    return sum(path.stat().st_size for path in folder.glob("??/*"))


def test_a_jsonl_is_fetched_once_and_again_when_it_was_written_anew(web, data, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset.local_copies, "CHUNK_BYTES", 300)
    monkeypatch.setattr(dataset.records, "SMALLEST", 1)
    web.files["meta.jsonl"] = lines(20)
    web.faults["meta.jsonl"] = [503, None, "reset", None, "short"]
    records = Records(data.meta, 3, data.local_cache)
    assert records[7].id == "7" and records[7].place == f"{data.meta}:8" and len(list(records)) == 20
    first = records.path
    assert first.read_bytes() == lines(20) and index_path(first).is_file()
    web.requests.clear()
    assert Records(data.meta, 3, data.local_cache).path == first
    assert web.requests == [("meta.jsonl", "bytes=0-0")]
    web.files["meta.jsonl"] = lines(21)
    assert len(Records(data.meta, 3, data.local_cache)) == 21
    assert len(records) == len(list(records)) == 20, "a run that has opened the former one keeps it"


def test_a_line_that_is_no_record_is_named_by_its_address_without_its_signature(web, data):
    web.files["meta.jsonl"] = lines(2) + b"\n{}"
    with pytest.raises(UserError, match=rf"^{web.url}/meta\.jsonl\?\*\*\*:3: 'image_path' must be a list"):
        Records(f"{data.meta}?sig=SECRET", 3, data.local_cache)


def test_ranks_that_start_together_fetch_a_jsonl_once(web, data):
    web.files["meta.jsonl"] = lines(2000)
    web.delay_s = 0.02
    processes = [FORK.Process(target=keep_copy, args=(data.meta, data.local_cache)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert sum(wanted != "bytes=0-0" for _, wanted in web.requests) == 1


def test_a_jsonl_that_changes_while_it_is_read_is_refused(web, data, monkeypatch):
    web.files["meta.jsonl"] = lines(20)
    real = dataset.local_copies.read_range

    def read_and_change(*arguments):
        content = real(*arguments)
        web.files["meta.jsonl"] = lines(20)[::-1]
        return content

    monkeypatch.setattr(dataset.local_copies, "read_range", read_and_change)
    with pytest.raises(UserError, match=r"meta\.jsonl: was written anew while it was read"):
        keep_copy(data.meta, data.local_cache)


def test_what_was_read_is_not_read_again_and_without_a_size_nothing_is_kept(web, data):
    web.files["a.png"] = bytes(1000)
    for _ in range(3):
        assert fetch(f"{web.url}/a.png", data, 2000) == bytes(1000)
        assert fetch_range(f"{web.url}/a.png", data, 5, 9) == bytes(4)
    assert len(web.requests) == 2
    without = data.model_copy(update={"local_cache_gib": 0.0})
    for _ in range(3):
        fetch(f"{web.url}/a.png", without, 2000)
    assert len(web.requests) == 5


def test_the_least_recently_used_go_first(tmp_path):
    files = RecentFiles(tmp_path, 10 * 104)
    for number in range(10):
        files.get(f"{number}-key", lambda: bytes(100))
        os.utime(files._path(f"{number}-key"), ns=(number, number))
    files.get("0-key", lambda: pytest.fail("it is there"))
    files.get("new", lambda: bytes(100))
    left = {path.parent.name + path.name for path in tmp_path.glob("??/*")}
    assert left == {"0-key", "new", *(f"{number}-key" for number in range(2, 10))} and size_of(tmp_path) <= 1040


def test_what_is_larger_than_the_whole_cache_is_not_kept(tmp_path):
    assert RecentFiles(tmp_path, 100).get("ab1", lambda: bytes(97)) == bytes(97)
    assert list(tmp_path.glob("*/*")) == []


@pytest.mark.parametrize("damage", [b"", b"abc", b"x" * 104])
def test_a_copy_that_is_damaged_is_read_anew(tmp_path, damage):
    files = RecentFiles(tmp_path, 10_000)
    files.get("ab1", lambda: b"y" * 100)
    files._path("ab1").write_bytes(damage)
    assert files.get("ab1", lambda: b"z" * 100) == b"z" * 100
    assert files.get("ab1", lambda: pytest.fail("it is there")) == b"z" * 100


@pytest.mark.parametrize("total", [b"", b"nonsense", b"%020d" % 10**9])
def test_a_sum_that_is_missing_or_too_high_is_counted_anew(tmp_path, total):
    files = RecentFiles(tmp_path, 10_000)
    files.get("ab1", lambda: bytes(100))
    (tmp_path / ".total").write_bytes(total)
    files.get("ab2", lambda: bytes(100))
    assert int((tmp_path / ".total").read_text()) == size_of(tmp_path) == 208


def test_a_disk_that_is_full_is_one_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset.local_copies.os, "pwrite", refuse)
    with pytest.raises(UserError, match="No space left on device: see data"):
        RecentFiles(tmp_path, 10_000).get("ab1", lambda: bytes(100))


def _use(folder, limit: int, seed: int, times: int) -> None:
    numbers = random.Random(seed)
    files = RecentFiles(folder, limit)
    for _ in range(times):
        number = numbers.randrange(400)
        content = bytes([number % 256]) * (1000 + 10 * number)
        assert files.get(f"{number:02x}{number}", lambda content=content: content) == content


def test_four_processes_keep_the_limit_while_others_are_killed(tmp_path):
    limit = 200_000  # of 1.2 MB that are asked for
    processes = [FORK.Process(target=_use, args=(tmp_path, limit, seed, 400)) for seed in range(4)]
    for process in processes:
        process.start()
    highest = killed = 0
    while any(process.is_alive() for process in processes):
        victim = FORK.Process(target=_use, args=(tmp_path, limit, 10 + killed, 10**6))
        victim.start()
        time.sleep(0.02 + 0.01 * (killed % 5))
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        killed += 1
        sizes = []
        for path in tmp_path.glob("??/*"):
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:
                continue
        highest = max(highest, sum(sizes))
    assert [process.exitcode for process in processes] == [0] * 4
    assert killed and limit / 2 < size_of(tmp_path) <= limit
    assert highest <= 1.2 * limit, "it was looked at while files came and went"
    RecentFiles(tmp_path, limit)._make_room(limit // 2)
    assert not list(tmp_path.glob("??/.*")), "nothing unfinished is left"
