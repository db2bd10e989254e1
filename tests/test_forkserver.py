"""A fork of the tests' server is the process that a user starts: the same surroundings, the same end."""

import json
import signal
import subprocess
import sys

import pytest

from tests.helpers.launch import ENVIRONMENT, Fork, accelerate_launch, forked_launch, heed_terminal

SURROUNDINGS = """
import json, os, signal, sys, threading
handlers = {int(number): str(signal.getsignal(number)).split(" at ")[0] for number in signal.valid_signals()}
own = {"argv": sys.argv, "path": sys.path[0], "folder": os.getcwd(), "name": __name__, "leads": os.getsid(0) == os.getpid()}
own |= {"environment": dict(os.environ), "handlers": handlers, "threads": threading.active_count()}
ignored = int(open("/proc/self/status").read().split("SigIgn:")[1].split()[0], 16)
glibcs_own = 0b11 << 31  # signals 32 and 33, which a parent that ever had a thread does not pass on as ignored
own |= {"files": sorted(os.listdir("/dev/fd")), "ignored": ignored & ~glibcs_own}
print(json.dumps(own), flush=True)
"""
ENDS = {
    "returns": "print('a line')",
    "exits": "import sys; print('a line'); sys.exit(3)",
    "raises": "import sys; print('a line'); sys.stdout.flush(); raise KeyError('x')",
    "is killed": "import os; print('a line', flush=True); os.kill(os.getpid(), 9)",
    "at its exit": "import atexit, sys; atexit.register(print, 'the last line'); sys.exit('no')",
}


def outcome(tmp_path, code: str, start) -> tuple[int, str]:
    (tmp_path / "program.py").write_text(code)
    process = start(str(tmp_path / "program.py"), "--word", "a b")
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def really(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT | {"MORE": "1"}, start_new_session=True,
        preexec_fn=heed_terminal,
    )  # fmt: skip


def forked(*words: str) -> Fork:
    return Fork(*words, MORE="1")


def test_it_finds_itself_in_the_same_surroundings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fork, real = (json.loads(outcome(tmp_path, SURROUNDINGS, start)[1]) for start in (forked, really))
    assert fork == real
    assert fork["leads"] and fork["argv"][1:] == ["--word", "a b"]


@pytest.mark.parametrize("end", ENDS)
def test_it_ends_alike(end, tmp_path):
    fork, real = (outcome(tmp_path, ENDS[end], start) for start in (forked, really))
    assert fork[0] == real[0] and fork[1].splitlines()[0] == real[1].splitlines()[0]
    assert fork[1].splitlines()[-1] == real[1].splitlines()[-1]


def test_who_takes_too_long_is_killed(tmp_path):
    (tmp_path / "program.py").write_text("import time\ntime.sleep(600)")
    process = Fork(str(tmp_path / "program.py"))
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.2)
    assert process.wait() == -signal.SIGKILL


# One write each: of two ranks that write at once, `print` may put both lines before both ends of lines.
RANK = "import json, os, sys; sys.stdout.write(json.dumps(dict(os.environ)) + chr(10))"
# What each launch chooses anew, and what DeepSpeed sets as it is imported, which the server did before.
OF_EACH_LAUNCH = {"MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_ERROR_FILE", "PYTORCH_NVML_BASED_CUDA_CHECK"}


# torch sets the variables of a rank under DDP as it does under ZeRO-2.
@pytest.mark.parametrize("file", [pytest.param("cpu", marks=pytest.mark.slow), "deepspeed_zero_2"])
def test_a_rank_of_a_forked_launch_has_the_environment_of_a_real_one(file, tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    words = ("--config_file", f"accelerate_config/{file}.yaml", "--num_processes", "2", "--main_process_port", "0")
    ranks = []
    for launch in (forked_launch, accelerate_launch):
        lines = launch(*words, str(tmp_path / "rank.py")).stdout.splitlines()
        environments = [json.loads(line) for line in lines if line.startswith("{")]
        ranks.append(sorted(environments, key=lambda environment: environment["RANK"]))
    assert len(ranks[0]) == len(ranks[1]) == 2
    for fork, real in zip(*ranks):
        assert {name for name in fork | real if fork.get(name) != real.get(name)} <= OF_EACH_LAUNCH
