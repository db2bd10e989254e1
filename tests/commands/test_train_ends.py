"""When something goes wrong, a run ends soon, with the right exit code, and leaves no process behind."""

import json
import os
import shutil
import signal
import time

import psutil
import pytest
import torch

from commands.train import train
from tests.helpers.launch import LAUNCHER, PORT, Fork
from training.checkpoint import checkpoints
from training.memory import explain_out_of_memory
from utils.errors import UserError

FAST = ("run.name=r", "run.tracker=none", "data.size_px=32", "data.num_frames=7", "train.batch_size=1")
WORDS = ("train", "train_config/tiny_cpu.yaml", *FAST, "train.log_every_steps=1", "validation.every_steps=0")
ENDS_WITHIN_S = 20  # most of it is the end of Python with torch on a busy machine


@pytest.fixture
def endless(small_base, tmp_path):
    return (*WORDS, f"model.base={small_base}", f"run.dir={tmp_path}", "train.max_steps=100000")


@pytest.fixture
def forked(endless):
    """Return a function that starts a run without an end."""

    def start(*words: str, program: str = "main.py", **environment: str) -> Fork:
        return Fork(program, *endless, *words, **environment)

    return start


def read_until(process: Fork, text: str) -> str:
    output = ""
    for line in process.stdout:
        output += line
        if text in line:
            return output
    raise AssertionError(output[-3000:])


def left_behind(group: int) -> list[psutil.Process]:
    """Return the processes in the session whose leader was the run that still run a few seconds later."""
    _, alive = psutil.wait_procs(_in_session(group), timeout=5)
    return alive


def _in_session(group: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.mark.parametrize("loader", ["idle", "busy", "stuck"])
def test_a_crash_in_a_step_ends_the_process_whatever_the_loader_is_at(loader, forked):
    process = forked("data.num_workers=2", program="tests/helpers/crashing.py", LOADER=loader)
    output = read_until(process, "CRASHING")
    rest, _ = process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == 1, output + rest
    assert "KeyError: 'a crash in a step'" in rest
    assert not left_behind(process.pid)


def test_a_crash_on_one_rank_ends_the_launch(endless, tmp_path):
    launcher = (*LAUNCHER, "--config_file", "accelerate_config/cpu.yaml", *PORT)
    words = ("tests/helpers/crashing.py", *endless, "data.num_workers=1")
    process = Fork(*launcher, *words, LOADER="stuck")
    output = read_until(process, "CRASHING")
    rest, _ = process.communicate(timeout=2 * ENDS_WITHIN_S)
    assert process.returncode not in (0, None), output + rest
    assert not [p for p in psutil.process_iter(["cmdline"]) if f"run.dir={tmp_path}" in (p.info["cmdline"] or [])]


def test_a_killed_run_takes_its_loading_processes_with_it(forked):
    process = forked("data.num_workers=2", program="tests/helpers/crashing.py", LOADER="stuck-only")
    read_until(process, "STUCK")
    process.kill()
    process.communicate(timeout=ENDS_WITHIN_S)
    assert not left_behind(process.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_once_the_step_is_finished_and_saved_and_twice_is_at_once(number, forked, tmp_path):
    process = forked("data.num_workers=1")
    read_until(process, "step 2/")
    os.killpg(process.pid, number)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert "stopped at step" in rest and len(checkpoints(tmp_path / "r")) == 1
    process = forked("data.num_workers=1", "train.grad_accum_steps=10000")
    read_until(process, "records, 10000 orbits a step")
    time.sleep(1)
    for _ in range(2):
        os.killpg(process.pid, number)
        time.sleep(0.5)
    rest, _ = process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == 128 + number, rest
    assert "Traceback" not in rest and not left_behind(process.pid)


def test_a_second_training_in_one_folder_is_refused_at_the_start_and_no_kill_leaves_the_lock(
    forked, tmp_path, tiny_config
):
    process = forked("data.num_workers=0")
    read_until(process, "step 1/")
    before = (tmp_path / "r/run.log").read_bytes()
    with pytest.raises(UserError, match="another training is at this run"):
        train(tiny_config(*FAST, "train.max_steps=1"))
    assert (tmp_path / "r/run.log").read_bytes().startswith(before)
    assert "another" not in (tmp_path / "r/run.log").read_text()
    process.kill()
    process.communicate()
    shutil.rmtree(tmp_path / "r/checkpoints", ignore_errors=True)
    train(tiny_config(*FAST, "train.max_steps=1"))
    assert [path.name for path in checkpoints(tmp_path / "r")] == ["step_0000001"]


@pytest.mark.parametrize("lost", ["every checkpoint", "the folder of checkpoints"])
def test_a_history_whose_checkpoints_are_gone_is_refused_with_the_keys_to_set(lost, tiny_config, tmp_path):
    words = (*FAST, "train.save_every_steps=1", "data.num_workers=0")
    train(tiny_config(*words, "train.max_steps=1"))
    run = tmp_path / "r"
    before = (run / "metrics.jsonl").read_bytes()
    shutil.rmtree(run / "checkpoints")
    if lost == "every checkpoint":
        (run / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"up to step_0000001, but no checkpoint.*run\.name.*run\.resume=never"):
        train(tiny_config(*words, "train.max_steps=2"))
    assert (run / "metrics.jsonl").read_bytes() == before
    train(tiny_config(*words, "train.max_steps=1", "run.resume=never"))
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."
        ),
        MemoryError(),
    ],
)
def test_out_of_memory_says_in_one_line_what_to_try(error):
    with pytest.raises(UserError, match=r"^out of memory .*try train\.batch_size=1") as raised, explain_out_of_memory():
        raise error
    assert "\n" not in str(raised.value)
    with pytest.raises(RuntimeError, match=r"^shapes$"), explain_out_of_memory():
        raise RuntimeError("shapes")
