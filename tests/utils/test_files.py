"""A file or folder appears whole or not at all, and what a kill leaves behind can be removed."""

import errno
import os
import random
import re
import signal
import subprocess
import sys

import pytest

from utils.errors import UserError
from utils.files import (
    file_name,
    new_file,
    new_folder,
    put_in_place,
    remove_folder,
    remove_unfinished,
    unfinished_path,
    write_atomically,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_keeps_its_old_content_until_the_new_is_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyError), new_file(path) as file:
        file.write(b"half")
        raise KeyError
    assert (path.read_text(), names(tmp_path)) == ("old", ["a.json"])
    with new_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old" and len(names(tmp_path)) == 2
    assert (path.read_text(), names(tmp_path)) == ("new", ["a.json"])


def test_a_folder_replaces_another_as_a_whole(tmp_path):
    folder = tmp_path / "a"
    for content in ("old", "new"):
        with new_folder(folder) as unfinished:
            (unfinished / "deep").mkdir()
            (unfinished / "deep" / content).touch()
    assert (names(folder / "deep"), names(tmp_path)) == (["new"], ["a"])
    with pytest.raises(KeyError), new_folder(folder) as unfinished:
        (unfinished / "half").touch()
        raise KeyError
    assert (names(folder / "deep"), names(tmp_path)) == (["new"], ["a"])


def test_a_write_that_fails_in_a_new_folder_says_where(tmp_path):
    with pytest.raises(OSError, match="No space left") as raised, new_folder(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a picture that is saved on a full disk
    assert raised.value.filename == str(tmp_path / "a") and not names(tmp_path)


@pytest.mark.parametrize("place", ["in the block", "between the two renames"])
def test_a_killed_process_leaves_only_what_is_hidden_and_that_can_be_removed(tmp_path, place):
    code = f"""
import os, pathlib, signal, sys
from utils.files import new_folder
folder = pathlib.Path({str(tmp_path)!r}, "a")
with new_folder(folder) as unfinished:
    (unfinished / "old").touch()
before = pathlib.Path.rename
def rename(self, target):
    if target == folder.resolve():
        os.kill(os.getpid(), signal.SIGKILL)
    return before(self, target)
with new_folder(folder) as unfinished:
    if {place!r} == "in the block":
        os.kill(os.getpid(), signal.SIGKILL)
    pathlib.Path.rename = rename
"""
    answer = subprocess.run([sys.executable, "-c", code], check=False, env=os.environ | {"PYTHONPATH": "."})
    assert answer.returncode == -signal.SIGKILL
    left = names(tmp_path)
    assert [name for name in left if not name.startswith(".")] == (["a"] if place == "in the block" else [])
    remove_unfinished(tmp_path, "another")
    assert names(tmp_path) == left, "what others may be writing stays"
    remove_unfinished(tmp_path, "a")
    assert (names(tmp_path), names(tmp_path / "a")) == (["a"], ["old"]), "the former folder is there again"


def test_a_former_folder_is_removed_once_its_successor_is_there(tmp_path):
    for name in ("a", ".a.0123abcd.former", ".b.0123abcd.former"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").touch()
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["a", "b"]


def test_removing_what_is_unfinished_removes_links_and_never_follows_them(tmp_path):
    target = tmp_path / "users"
    target.mkdir()
    (target / "work").touch()
    unfinished_path(tmp_path / "link").symlink_to(target)
    unfinished_path(tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    unfinished_path(tmp_path / "file").touch()
    folder = unfinished_path(tmp_path / "folder")
    folder.mkdir()
    (folder / "link").symlink_to(target)
    remove_unfinished(tmp_path)
    assert (names(tmp_path), names(target)) == (["users"], ["work"])
    (tmp_path / "link").symlink_to(target)
    remove_folder(tmp_path / "link")
    assert (names(tmp_path), names(target)) == (["users"], ["work"])


def test_a_folder_replaces_neither_a_link_nor_what_it_points_to(tmp_path):
    target = tmp_path / "users"
    target.mkdir()
    (tmp_path / "a").symlink_to(target)
    unfinished = unfinished_path(tmp_path / "a")
    unfinished.mkdir()
    with pytest.raises(UserError, match="a: is a link"):
        put_in_place(unfinished, tmp_path / "a")
    unfinished.rmdir()
    with pytest.raises(UserError, match="a: is a link"), new_folder(tmp_path / "a"):
        pass
    assert names(tmp_path) == ["a", "users"] and (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("name", ["a*b", "[ab]", "ü" * 100, "x.y", "?"])
def test_any_name_is_found_again(tmp_path, name):
    unfinished_path(tmp_path / name).touch()
    unfinished_path(tmp_path / "axb").touch()
    remove_unfinished(tmp_path, name)
    assert len(names(tmp_path)) == 1


def test_the_name_made_of_any_id_fits_into_a_folder_with_all_that_is_put_around_it(tmp_path):
    dice = random.Random(0)
    letters = "aZ0_.- /\\\0\n\x1b*?=\"'\ud800\udcffé中🂡\u202e\u0301"
    ids = ["".join(dice.choices(letters, k=dice.randrange(400))) for _ in range(500)]
    for text in [*ids, "🂡" * 400, "中" * 400, "é" * 400, "a" * 4000, ".." * 9, "", "=cmd"]:
        name = file_name(text)
        assert re.fullmatch(r"([^\W_][\w.-]*)?", name) and len(name.encode()) <= 200, (text, name)
        if name:
            with new_file(tmp_path / f"000_{name}.jsonl"):
                pass


@pytest.mark.parametrize("kind", ["folder", "link", "link to nothing", "pipe"])
def test_a_file_takes_the_place_of_no_folder_link_or_pipe(kind, tmp_path):
    path = tmp_path / "file"
    (tmp_path / "other").write_text("mine")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / ("other" if kind == "link" else "nothing"))
    before = path.lstat()
    with pytest.raises(UserError, match="choose another place"):
        write_atomically(path, "ours")
    assert path.lstat().st_mode == before.st_mode and (tmp_path / "other").read_text() == "mine"
