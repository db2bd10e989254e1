"""Whatever a worker does costs its own object, and leaves no process behind."""

import errno
import fcntl
import multiprocessing
import os
import signal
import sys
import time
import types
from pathlib import Path

import numpy as np
import psutil
import pytest

from rendering.extent import Placement
from rendering.failure import Failure
from rendering.job import Job
from rendering.queue.locks import FILES, Locks
from rendering.queue.process import Drawn, Limits, Stopped, _crashed, run_job
from utils.errors import UserError

STANDIN = [sys.executable, "-I", "-S", str(Path(__file__).parents[1] / "helpers/standin_worker.py")]


def draw(folder: Path, task: str, time_s: float = 20, memory_gib: float = 1, **keywords) -> Drawn:
    asset = folder / f"{task}.stl"
    asset.write_text(f"solid {task}\n")
    job = Job(str(asset), str(folder / "views"), [np.eye(4).tolist()] * 3, 33.8, 32, 1, "environment.npy", "cpu", "z")
    return run_job(STANDIN, job, Limits(time_s, memory_gib), **keywords)


def processes_of(folder: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(process.info["cmdline"] or [])
    ]


def gone(folder: Path, within_s: float = 5) -> bool:
    until = time.monotonic() + within_s
    while processes_of(folder) and time.monotonic() < until:
        time.sleep(0.05)
    return not processes_of(folder)


def test_views_come_back_as_drawn(tmp_path):
    drawn = draw(tmp_path, "draws")
    views = drawn.views
    assert drawn.placement == Placement((1.0, 2.0, 3.0), 0.25, (0.9, 0.4, 0.2))
    assert views.shape == (3, 32, 32, 4) and views.dtype == np.uint8
    assert views[2, 16, 16].tolist() == [140, 70, 90, 255] and not views[:, 0].any()
    assert gone(tmp_path)


@pytest.mark.parametrize(
    ("task", "kind", "reason"),
    [
        ("refuses", "refused", "cannot draw velvet"),
        ("crashes", "crashed", "exit code 1: ValueError: broken triangle 7 of part"),
        ("segfaults", "crashed", "killed by SIGSEGV: no message"),
        ("stops", "crashed", "ended without a result: no message"),
        ("omits", "crashed", "drew 2 of 3 views: 002.png is missing or damaged"),
    ],
)
def test_a_worker_that_fails_says_why(task, kind, reason, tmp_path):
    with pytest.raises(Failure) as failure:
        draw(tmp_path, task)
    assert failure.value.kind == kind
    assert failure.value.reason.replace(f"{tmp_path}/", "") == reason


@pytest.mark.parametrize(
    ("task", "limits", "kind"),
    [("hangs", {"time_s": 0.5}, "timeout"), ("eats", {"memory_gib": 0.2}, "memory")],
)
def test_limits_end_the_worker_with_its_children(task, limits, kind, tmp_path):
    started = time.monotonic()
    with pytest.raises(Failure) as failure:
        draw(tmp_path, task, **limits)
    assert failure.value.kind == kind and time.monotonic() - started < 10
    assert gone(tmp_path)


def test_the_time_of_a_suspended_job_does_not_count(tmp_path, monkeypatch):
    """As Slurm suspends one: the clock has run on for an hour when the next look comes."""
    asleep = iter([0, 3600])
    slept = []

    def clock() -> float:
        slept.append(next(asleep, 0))
        return now() + sum(slept)

    now = time.monotonic
    monkeypatch.setattr("rendering.queue.process.time", types.SimpleNamespace(monotonic=clock))
    with pytest.raises(Stopped):
        draw(tmp_path, "hangs", time_s=20, stopped=lambda: len(slept) > 5)
    assert sum(slept) == 3600


def test_a_machine_that_cannot_render_is_the_users_to_fix(tmp_path):
    with pytest.raises(UserError, match="the renderer cannot run here: error: no GPU of any kind"):
        draw(tmp_path, "blames")


def test_a_program_that_is_not_there_is_the_users_to_fix(tmp_path):
    (tmp_path / "a.stl").touch()
    job = Job(str(tmp_path / "a.stl"), str(tmp_path / "views"), [], 33.8, 32, 1, "", "cpu", "z")
    with pytest.raises(UserError, match="/no/blender: cannot be started: No such file"):
        run_job(["/no/blender"], job, Limits(20, 1))


def test_a_stop_ends_the_worker_at_once(tmp_path):
    started = time.monotonic()
    with pytest.raises(Stopped):
        draw(tmp_path, "hangs", stopped=lambda: time.monotonic() - started > 0.3)
    assert time.monotonic() - started < 5 and gone(tmp_path)


def test_a_renderer_that_is_ended_from_outside_is_no_failure_of_its_asset(tmp_path):
    """As when a machine that shuts down signals every process: ours may hear of it a little later."""
    with pytest.raises(UserError, match="the renderer was killed by SIGTERM, from outside"):
        draw(tmp_path, "is_terminated")
    (tmp_path / "stopped").mkdir()
    started = time.monotonic()
    with pytest.raises(Stopped):
        draw(tmp_path / "stopped", "is_terminated", stopped=lambda: time.monotonic() - started > 0.9)


def test_a_quota_that_is_used_up_is_no_failure_of_the_asset(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path))

    monkeypatch.setattr("rendering.queue.process.write_file", full)
    with pytest.raises(OSError, match="quota"):
        _crashed(tmp_path, "exit code 1: no message")


def test_a_deadlock_that_the_kernel_sees_among_threads_is_waited_out(tmp_path, monkeypatch):
    answers = [OSError(errno.EDEADLK, os.strerror(errno.EDEADLK))] * 3
    ask = fcntl.lockf

    def lockf(file, how, *place):
        if how == fcntl.LOCK_EX and answers:
            raise answers.pop()
        return ask(file, how, *place)

    monkeypatch.setattr(fcntl, "lockf", lockf)
    held = Locks(tmp_path / ".lock")
    with held.alone(FILES):
        assert not answers
    held.close()


def test_sigkill_of_ours_ends_the_worker_and_its_children(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=draw, args=(tmp_path, "hangs"))
    process.start()
    until = time.monotonic() + 10
    while len(processes_of(tmp_path)) < 3 and time.monotonic() < until:  # supervisor, worker, its child
        time.sleep(0.05)
    assert len(processes_of(tmp_path)) >= 3
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert gone(tmp_path)
