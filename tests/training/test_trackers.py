"""wandb in offline mode and TensorBoard, for real: what was logged is read back from their files."""

import json
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from training.trackers import Metrics, TensorBoard, Trackers
from utils.config import to_json
from utils.errors import UserError
from utils.video import write_mp4


def wandb_records(path: Path) -> list:
    """Return the records of a .wandb file, which is a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, offset, pending, records = path.read_bytes(), 7, b"", []
    while offset + 7 <= len(data):
        left = 32768 - offset % 32768
        if left < 7:
            offset += left
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + 7])
        pending += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(pending))
            pending = b""
    return records


def wait_for_sessions(folder: Path, count: int) -> None:
    """Wait for the last record of each session: wandb's own process writes them, and may end after `finish` has returned."""
    for _ in range(600):
        ended = [
            any(record.WhichOneof("record_type") == "exit" for record in wandb_records(path))
            for path in folder.glob("wandb/offline-run-*/*.wandb")
        ]
        if sum(ended) == count:
            return
        time.sleep(0.1)
    raise AssertionError(f"{count} sessions were to end within a minute; those that are there have ended: {ended}")


def history(folder: Path) -> list[dict]:
    """Return every logged row of all sessions of the run, in order."""
    rows = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
    return rows


def test_wandb_keeps_every_scalar_and_video_at_its_step_and_a_resumed_run_is_the_same_run(
    tmp_path, tiny_config, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    cfg = tiny_config("run.name=w", "run.tracker=wandb", "run.project=orbits", "optim.learning_rate=4e-4")
    write_mp4(tmp_path / "a.mp4", np.zeros((3, 16, 16, 3), np.uint8))
    with Trackers(tmp_path, 0, False, cfg.run, to_json(cfg), is_main_process=True) as trackers:
        trackers.scalars(1, {"train/loss": 0.5})
        trackers.scalars(2, {"train/loss": 0.25})
        trackers.scalars(2, {"val/psnr_novel": 12.0})  # the same step again, and an earlier one: nothing is dropped
        trackers.video(1, "val/chair", tmp_path / "a.mp4")
    run_id = (tmp_path / "wandb_id").read_text()
    assert run_id
    time.sleep(1.1)  # wandb names a session's folder by the second
    with Trackers(tmp_path, 2, False, cfg.run, to_json(cfg), is_main_process=True) as trackers:
        trackers.scalars(3, {"train/loss": 0.125})
    assert (tmp_path / "wandb_id").read_text() == run_id
    wait_for_sessions(tmp_path, 2)
    rows = history(tmp_path)
    assert [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row] == [
        (1, 0.5),
        (2, 0.25),
        (3, 0.125),
    ]
    assert [(row["step"], row["val/psnr_novel"]) for row in rows if "val/psnr_novel" in row] == [(2, 12.0)]
    video = next(row for row in rows if any(key.startswith("val/chair") for key in row))
    assert video["step"] == 1 and len(list(tmp_path.glob("wandb/offline-run-*/files/media/videos/val/*.mp4"))) == 1
    sessions = [wandb_records(path) for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))]
    runs = [record.run for records in sessions for record in records if record.WhichOneof("record_type") == "run"]
    assert len(sessions) == 2 and {run.run_id for run in runs} == {run_id} and runs[0].project == "orbits"
    config = {item.key: json.loads(item.value_json) for run in runs[:1] for item in run.config.update}
    assert config["validation"]["meta"] == "svd_meta_held_out.jsonl" and config["optim"]["learning_rate"] == 4e-4
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 2, 3]


def test_a_missing_login_fails_before_the_model_is_loaded_and_names_three_ways_on(tmp_path, tiny_config, monkeypatch):
    import wandb

    import commands.train

    wandb.teardown()  # it keeps the settings of the first run in a process
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody's login
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(commands.train, "find_base", lambda *_: pytest.fail("the model was looked for"))
    with pytest.raises(UserError, match=r"wandb login.*WANDB_MODE=offline.*run\.tracker=tensorboard"):
        commands.train.train(tiny_config("run.name=w", "run.tracker=wandb"))


def test_metrics_are_cut_back_to_the_step_and_a_torn_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2}\n{"step": 3}\nnot json\n{"step": 2, "b')
    Metrics(path, 2, owes_validation=False).scalars(3, {"a": 0.1})
    assert path.read_text() == '{"step": 1, "a": 1}\n{"step": 2}\n{"step": 3, "a": 0.1}\n'


def test_a_whole_row_without_its_line_end_is_dropped_so_that_the_next_row_has_its_own_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n{"step": 2}')
    Metrics(path, 2, owes_validation=False).scalars(3, {"a": 0.1})
    assert path.read_text() == '{"step": 1}\n{"step": 3, "a": 0.1}\n'


def test_tensorboard_has_each_point_at_once_and_a_start_at_step_0_hides_those_of_a_dead_run(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def points() -> list[tuple[int, float]]:
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        return [(event.step, event.value) for event in events.Scalars("a")]

    dead = TensorBoard(tmp_path, 0)
    dead.scalars(1, {"a": 1.0})
    dead.scalars(2, {"a": 2.0})
    assert points() == [(1, 1.0), (2, 2.0)]  # it is not closed
    time.sleep(1.1)  # TensorBoard reads a folder's files by the second in their names
    TensorBoard(tmp_path, 0).scalars(1, {"a": 3.0})
    assert points() == [(1, 3.0)]


def test_a_tensorboard_that_cannot_be_written_is_one_error_and_no_thread_prints(tmp_path, capfd):
    board = TensorBoard(tmp_path, 0)
    shutil.rmtree(tmp_path / "tensorboard")
    with pytest.raises(OSError, match="No such file"):
        board.scalars(1, {"train/loss": 1.0})
    with pytest.raises(OSError, match="No such file"):
        board.close(failed=True)
    assert "Traceback" not in capfd.readouterr().err


def test_the_val_lines_of_a_step_are_cut_where_its_validation_is_owed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = ['{"step": 1, "val/loss": 1}\n', '{"step": 2, "train/loss": 1}\n', '{"step": 2, "val/loss": 1}\n']
    path.write_text("".join(lines))
    Metrics(path, 2, owes_validation=False)
    assert path.read_text() == "".join(lines)
    Metrics(path, 2, owes_validation=True)
    assert path.read_text() == "".join(lines[:2])
