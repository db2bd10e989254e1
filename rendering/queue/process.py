"""Run one job in a process group of its own, with limits of time and memory, so that an asset can spoil nothing but itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, UnidentifiedImageError

from rendering.extent import Placement
from rendering.failure import Failure
from rendering.job import MACHINE_EXIT_CODE, NOT_STARTED_EXIT_CODE, Job, to_json
from rendering.queue.saved import SavedCheck, SavedResult
from utils.errors import UserError
from utils.files import write_file
from utils.reading import read_json

POLL_S = 0.05
LONGEST_POLL_S = 5.0  # also on a busy machine
MEMORY_POLL_S = 0.25
MAX_LOG_BYTES = 64 << 20
MIN_FREE_BYTES = 1 << 20
# No asset ends its renderer by these. They are sent to all processes of a job, ours too, whose turn may come a little later.
FROM_OUTSIDE = (signal.SIGTERM, signal.SIGHUP)
FROM_OUTSIDE_S = 1.0
_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_CHECK = Path(__file__).parents[1] / "safety/worker.py"


@dataclass(frozen=True)
class Limits:
    time_s: float
    memory_gib: float  # resident memory of the worker and its children together


@dataclass(frozen=True)
class Drawn:
    """What a renderer made of an asset."""

    views: np.ndarray  # V size size 4 uint8, straight alpha
    placement: Placement


class Stopped(Exception):
    """The run is to end. The job was cut off, which says nothing about the asset."""


def run_job(
    command: Sequence[str],
    job: Job,
    limits: Limits,
    environment: Mapping[str, str] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Drawn:
    """Run a renderer. `job.views` is in a folder where the job and its log may be written.

    Raises Failure, Stopped, UserError if the worker says that the machine, not the asset, is to blame, or OSError on a full disk.
    """
    folder = Path(job.views).parent
    Path(job.views).mkdir()
    write_file(folder / "job.json", to_json(job))
    run_worker([*command, str(folder / "job.json")], folder, limits, environment, stopped)
    try:
        result = read_json(Path(job.views, "result.json"), SavedResult)
    except UserError:
        raise _without_result(folder) from None
    if result.refused is not None:
        raise Failure("refused", result.refused)
    return Drawn(_read_views(job, folder), Placement(**dict(result.object)))


def check_in_process(
    asset: Path, folder: Path, max_bytes: int, limits: Limits, stopped: Callable[[], bool] = lambda: False
) -> None:
    """Check one asset in a process of its own, under the same limits as a renderer's, with `folder` for its files.

    Raises what run_job does: whatever the check itself raises, however long it takes, is a Failure of this asset.
    """
    job = folder / "check.json"
    result = folder / "checked.json"
    write_file(job, json.dumps({"asset": str(asset.absolute()), "max_bytes": max_bytes, "result": str(result)}))
    command = [sys.executable, str(_CHECK), str(job)]
    run_worker(command, folder, limits, None, stopped, "the check", machine_codes=(NOT_STARTED_EXIT_CODE,))
    try:
        failure = read_json(result, SavedCheck).failure
    except UserError:
        raise _without_result(folder) from None
    if failure is not None:
        raise Failure(*failure)


def run_worker(
    command: list[str],
    folder: Path,
    limits: Limits,
    environment: Mapping[str, str] | None,
    stopped: Callable[[], bool],
    what: str = "the renderer",
    machine_codes: Sequence[int] = (MACHINE_EXIT_CODE, NOT_STARTED_EXIT_CODE),
) -> None:
    """Run a worker till it has ended well, with its log in `folder`. Raises what run_job does.

    `machine_codes`: the exit codes for which the machine is to blame, not the asset.
    """
    code = _run(command, folder / "log", limits, environment, stopped)
    if code:
        if code - 128 in FROM_OUTSIDE:
            time.sleep(FROM_OUTSIDE_S)
        if stopped():
            raise Stopped
        if code - 128 in FROM_OUTSIDE:
            raise UserError(f"{what} was {_exit_name(code)}, from outside; the same command goes on from here")
        tail = _tail(folder)
        if code in machine_codes:
            raise UserError(f"{what} cannot run here: {tail or 'it gives no reason'}")
        raise _crashed(folder, f"{_exit_name(code)}: {tail or 'no message'}")


def _without_result(folder: Path) -> Failure:
    return _crashed(folder, f"ended without a result: {_tail(folder) or 'no message'}")


def _run(
    command: list[str], log: Path, limits: Limits, environment: Mapping[str, str] | None, stopped: Callable[[], bool]
) -> int:
    """Return the exit code, 128 + n for signal n."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_SUPERVISOR), *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=None if environment is None else {**os.environ, **environment},
            start_new_session=True,
        )
    try:
        _watch(process, log, limits, stopped)
    finally:
        with suppress(ProcessLookupError):  # a worker that ended well may have left processes too
            os.killpg(process.pid, signal.SIGKILL)
        process.stdin.close()
        code = process.wait()
    return code if code >= 0 else 128 - code


def _watch(process: subprocess.Popen, log: Path, limits: Limits, stopped: Callable[[], bool]) -> None:
    worked = 0.0  # seconds, without those in which all of us were suspended, as Slurm does it
    polled = looked = time.monotonic()
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_S)
            return
        now = time.monotonic()
        worked += min(now - polled, LONGEST_POLL_S)
        polled = now
        if stopped():
            raise Stopped
        if worked > limits.time_s:
            raise Failure("timeout", f"took more than {limits.time_s:g} s")
        if now - looked > MEMORY_POLL_S:
            looked = now
            if _resident_bytes(process.pid) > limits.memory_gib * 2**30:
                raise Failure("memory", f"took more than {limits.memory_gib:g} GiB")
            if log.stat().st_size > MAX_LOG_BYTES:
                raise Failure("crashed", f"wrote more than {MAX_LOG_BYTES >> 20} MiB of messages")


def _resident_bytes(pid: int) -> int:
    total = 0
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.memory_info().rss
    return total


def _crashed(folder: Path, reason: str) -> Failure:
    """Return a Failure. Raises OSError if nothing can be written, which is not the asset's fault."""
    probe = folder / "probe"  # a quota, and a lack of inodes, show only when one writes
    write_file(probe, bytes(MIN_FREE_BYTES))
    probe.unlink()
    return Failure("crashed", reason)


def _exit_name(code: int) -> str:
    if code > 128 and code - 128 in {number.value for number in signal.Signals}:
        return f"killed by {signal.Signals(code - 128).name}"
    return f"exit code {code}"


def _tail(folder: Path) -> str:
    """Return the last line of the log that says something, without the folder's name."""
    with open(folder / "log", "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        lines = file.read().decode(errors="replace").replace(f"{folder}/", "").split("\n")
    said = [line.strip() for line in lines if any(letter.isalnum() for letter in line)]
    return said[-1] if said else ""


def _read_views(job: Job, folder: Path) -> np.ndarray:
    views = np.empty((len(job.camera_to_world), job.size_px, job.size_px, 4), np.uint8)
    for index in range(len(views)):
        name = f"{index:03d}.png"
        try:
            with Image.open(Path(job.views, name), formats=["PNG"]) as image:
                if image.mode != "RGBA" or image.size != (job.size_px, job.size_px):
                    raise Failure("crashed", f"drew {name} as {image.mode} of {image.size}")
                views[index] = np.asarray(image)
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
            raise _crashed(folder, f"drew {index} of {len(views)} views: {name} is missing or damaged") from None
    shutil.rmtree(job.views)
    return views
