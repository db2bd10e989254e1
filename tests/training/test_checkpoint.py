"""Which checkpoints are kept, which one a run goes on from, and which are refused."""

import errno
from pathlib import Path

import pytest
from accelerate import Accelerator

import training.pruning
import training.resume
from training.checkpoint import LATEST, META, checkpoints
from training.pruning import prune
from training.resume import check_engine, find_checkpoint
from utils.errors import UserError
from utils.files import remove_folder, unfinished_path
from utils.schemas import TrainSettings


@pytest.fixture
def run(tmp_path) -> Path:
    for step in range(100, 800, 100):
        folder = tmp_path / "checkpoints" / f"step_{step:07d}"
        folder.mkdir(parents=True)
        (folder / META).write_text("{}")
    return tmp_path


def steps(run: Path) -> list[int]:
    return [int(path.name[5:]) for path in checkpoints(run)]


def test_prune_keeps_the_newest_and_the_multiples_and_clears_what_is_unfinished(run):
    for step in ("step_0000800", "step_0000050"):
        unfinished_path(run / "checkpoints" / step).mkdir()
    prune(run, TrainSettings(max_steps=1, keep_last=2, keep_every_steps=300))
    assert steps(run) == [300, 600, 700]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        f"step_0000{step}" for step in (300, 600, 700)
    ]
    prune(run, TrainSettings(max_steps=1, keep_last=1))
    assert steps(run) == [700]


def test_what_cannot_be_removed_is_a_warning_and_the_rest_is_removed(run, monkeypatch, caplog):
    def remove(path):
        if path.name == "step_0000200":
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        remove_folder(path)

    monkeypatch.setattr(training.pruning, "remove_folder", remove)
    prune(run, TrainSettings(max_steps=1, keep_last=2))
    assert steps(run) == [200, 600, 700]
    assert [record.getMessage() for record in caplog.records] == [
        f"{run}/checkpoints/step_0000200: cannot be removed: Directory not empty; the next save tries again"
    ]


def test_a_folder_without_meta_is_no_checkpoint(run, tiny_config):
    (run / "checkpoints/step_0000700" / META).unlink()
    assert find_checkpoint(run, tiny_config().run).name == "step_0000600"
    assert find_checkpoint(run / "nowhere", tiny_config().run) is None
    with pytest.raises(UserError, match="no checkpoint"):
        find_checkpoint(run / "nowhere", tiny_config("run.resume=must").run)


@pytest.mark.parametrize(
    ("latest", "shown"),
    [
        (b"step_0000700\n", "step_0000700"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", "some step"),
        (b"x" * 10**6, "x" * 200 + ","),
    ],
)
def test_a_history_without_a_whole_checkpoint_is_refused_and_each_without_meta_is_named(
    latest, shown, run, tiny_config, caplog
):
    for checkpoint in checkpoints(run):
        (checkpoint / META).unlink()
    (run / LATEST).write_bytes(latest)
    with pytest.raises(UserError, match=f"was trained up to {shown}"):
        find_checkpoint(run, tiny_config().run)
    assert len([line for line in caplog.messages if "no meta.json, so it is passed over" in line]) == 7


@pytest.mark.parametrize(
    ("saved", "fits"),
    [
        ({"type": "plain", "num_processes": 1}, True),
        ({"type": "plain", "num_processes": 8}, True),
        ({"type": "ZeRO-2", "num_processes": 1}, False),
        ({"type": "ZeRO-3", "num_processes": 2}, False),
    ],
)
def test_another_engine_is_refused_with_the_way_to_warm_start(saved, fits, tmp_path):
    accelerator = Accelerator(cpu=True)
    saved = saved | {"mixed_precision": None}
    if fits:
        check_engine(tmp_path, saved, accelerator)
        return
    with pytest.raises(UserError, match=rf"{saved['num_processes']} process\(es\) under {saved['type']}.*model\.base="):
        check_engine(tmp_path, saved, accelerator)


def test_another_number_or_precision_of_zero_processes_is_refused(tmp_path, monkeypatch):
    now = {"type": "ZeRO-2", "num_processes": 4, "mixed_precision": "bf16"}
    monkeypatch.setattr(training.resume, "engine", lambda _: now)
    check_engine(tmp_path, now, None)
    check_engine(tmp_path, now | {"mixed_precision": None}, None)  # of a time when it was not saved
    with pytest.raises(UserError, match=r"2 process\(es\) under ZeRO-2 in bf16, this is 4"):
        check_engine(tmp_path, now | {"num_processes": 2}, None)
    with pytest.raises(UserError, match=r"4 process\(es\) under ZeRO-2 in fp32, this is 4 under ZeRO-2 in bf16"):
        check_engine(tmp_path, now | {"mixed_precision": "no"}, None)
