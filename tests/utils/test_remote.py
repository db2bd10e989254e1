"""Against a web server that fails as it is told."""

import os
import time
from types import SimpleNamespace

import pytest

from tests.helpers.web import serving
from utils import remote, retries
from utils.errors import UserError
from utils.remote import list_names, look_at, read_file, read_range

LIMIT = 1 << 20


@pytest.fixture
def web():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)


@pytest.fixture
def content(web):
    web.files["a.png"] = os.urandom(200_000)
    return web.files["a.png"]


def test_a_file_and_a_part_of_it_take_one_request_each(web, content):
    assert read_file(f"{web.url}/a.png", LIMIT) == content
    assert read_range(f"{web.url}/a.png", 1000, 3000) == content[1000:3000]
    assert web.requests == [("a.png", None), ("a.png", "bytes=1000-2999")] and web.sent["a.png"] == 202_000
    assert read_range(f"{web.url}/a.png", 7, 7) == b""


@pytest.mark.parametrize("fault", [503, 500, 429, 408, "reset", "short"])
def test_what_may_pass_is_tried_again(web, content, fault):
    for read in (lambda: read_file(f"{web.url}/a.png", LIMIT), lambda: read_range(f"{web.url}/a.png", 0, 200_000)):
        web.faults["a.png"] = [fault] * (retries.ATTEMPTS - 1)
        assert read() == content
    assert len(web.requests) == 2 * retries.ATTEMPTS


def test_other_bytes_than_those_asked_for_are_never_taken(web, content):
    web.faults["a.png"] = ["other range"]
    assert read_range(f"{web.url}/a.png", 10, 20) == content[10:20]
    assert len(web.requests) == 2


def test_each_further_attempt_waits_about_twice_as_long(web, content, monkeypatch):
    waits = []
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 1)
    monkeypatch.setattr(retries, "time", SimpleNamespace(sleep=waits.append))
    web.faults["a.png"] = [503] * retries.ATTEMPTS
    with pytest.raises(UserError, match=r"a\.png: cannot be read: HTTP 503, 4 times"):
        read_file(f"{web.url}/a.png", LIMIT)
    assert [0.5 <= wait / 2**number <= 1 for number, wait in enumerate(waits)] == [True] * 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(404, "no such file"), (403, r"not allowed \(HTTP 403\)"), (416, "HTTP 416"), (304, "HTTP 304")],
)
def test_what_will_not_pass_is_not_tried_again(web, content, fault, reason):
    web.faults["a.png"] = [fault]
    with pytest.raises(UserError, match=rf"^http.*/a\.png: cannot be read: {reason}"):
        read_file(f"{web.url}/a.png", LIMIT)
    assert len(web.requests) == 1


@pytest.mark.parametrize("limit", ["SILENCE_S", "ATTEMPT_S"])
def test_a_server_that_never_answers_is_an_error_after_as_many_attempts(web, content, monkeypatch, limit):
    monkeypatch.setattr(remote, limit, 0.1)
    web.faults["a.png"] = ["silent"] * 9
    with pytest.raises(UserError, match="cannot be read: no answer in time, 4 times"):
        read_file(f"{web.url}/a.png", LIMIT)


def test_nobody_at_the_other_end_is_one_error():
    with pytest.raises(UserError, match=r"^http://127\.0\.0\.1:9/a\.png: cannot be read: Cannot connect.*4 times"):
        read_file("http://127.0.0.1:9/a.png", LIMIT)


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_file_above_the_limit_and_one_without_an_end_are_cut_off(web, content, size):
    with pytest.raises(UserError, match=r"a\.png: is larger than .* KiB"):
        read_file(f"{web.url}/a.png", size)
    web.sent.clear()
    web.faults["a.png"] = ["endless", "endless"]
    with pytest.raises(UserError, match=r"a\.png: is larger than .* KiB"):
        read_file(f"{web.url}/a.png", size)
    assert read_range(f"{web.url}/a.png", 5, 10) == bytes(5)
    sent = -1
    while sent != web.sent["a.png"] and sent < 32 << 20:  # the server hears of it at its next write
        sent = web.sent["a.png"]
        time.sleep(0.2)
    assert sent < 32 << 20, "the server was left"


def test_a_server_that_sends_the_whole_file_gives_its_part_unless_that_is_far_in(web, content, monkeypatch):
    web.faults["a.png"] = ["whole", "whole"]
    assert read_range(f"{web.url}/a.png", 1000, 1010) == content[1000:1010]
    monkeypatch.setattr(remote, "MAX_SKIPPED_BYTES", 999)
    with pytest.raises(UserError, match="its server sends no parts of a file"):
        read_range(f"{web.url}/a.png", 1000, 1010)


def test_a_file_of_another_size_than_was_expected_is_refused(web, content):
    with pytest.raises(UserError, match="has 200,000 bytes instead of 200,001"):
        read_range(f"{web.url}/a.png", 0, 10, 200_001)
    assert len(web.requests) == 1


def test_size_and_version_are_told_without_the_content(web, content):
    before = look_at(f"{web.url}/a.png")
    assert before.size == 200_000 and web.sent["a.png"] == 1
    web.files["a.png"] = os.urandom(200_000)
    assert look_at(f"{web.url}/a.png") != before


@pytest.mark.parametrize("fault", [[404], [503] * 4, ["short"] * 4, ["endless"]])
def test_no_error_shows_a_password_or_a_signature(web, content, fault):
    address = f"{web.url}/a.png?sig=SECRET".replace("http://", "http://me:SECRET@")
    web.faults["a.png"] = fault
    with pytest.raises(UserError) as error:
        read_file(address, LIMIT)
    assert "SECRET" not in str(error.value) and str(error.value).startswith("http://***@127")
    assert error.value.__suppress_context__ or error.value.__context__ is None
    assert web.requests[0][0] == "a.png?sig=SECRET" and web.authorization[-1].startswith("Basic ")


def test_the_memory_file_system_reads_the_same(content):
    import fsspec

    fsspec.filesystem("memory").pipe({"/box/a.png": content, "/box/b.png": b""})
    assert read_file("memory://box/a.png", LIMIT) == content
    assert read_range("memory://box/a.png", 5, 9) == content[5:9]
    assert look_at("memory://box/a.png").size == 200_000
    assert list_names("memory://box") == {"a.png", "b.png"}
    with pytest.raises(UserError, match=r"^memory://box/c\.png: cannot be read: no such file$"):
        read_file("memory://box/c.png", LIMIT)
    with pytest.raises(UserError, match="is larger than"):
        read_file("memory://box/a.png", 100)
    with pytest.raises(UserError, match="it ended after 1 of 2 bytes, 4 times"):
        read_range("memory://box/a.png", 199_999, 200_001)


def test_a_data_set_of_the_hub_is_read_over_http_with_the_users_token(web, content, monkeypatch):
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HUGGINGFACE_CO_URL_TEMPLATE", web.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    web.files |= {"datasets/me/set/resolve/main/a b/0.png": b"main", "datasets/me/set/resolve/v1/a b/0.png": b"v1"}
    assert read_file("hf://datasets/me/set/a b/0.png", LIMIT) == b"main"
    assert read_range("hf://datasets/me/set@v1/a b/0.png", 1, 2) == b"1"
    assert web.authorization[-2:] == ["Bearer hf_token"] * 2


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(remote, "_opened", {})
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(UserError, match="gs://: a package is missing to read it: pip install gcsfs"):
        read_file("gs://bucket/a.png", LIMIT)
