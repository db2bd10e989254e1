"""Starting the program: as a user does, or as a fork of a process that has imported it already (tests/helpers/forkserver.py)."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "PYTEST_"))}
LAUNCHER = ("-m", "accelerate.commands.launch")
TINY = "train_config/tiny_cpu.yaml"
PORT = ("--main_process_port", "0")  # any free one
PATIENCE_S = 300


def heed_terminal() -> None:
    """Take SIGINT and SIGHUP as a program in a terminal does. Under nohup, and in the background of a shell, they are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Fork:
    """`python WORDS` as a fork of the server: the part of subprocess.Popen that the tests use. Output and errors are one text."""

    def __init__(self, *words: str, **environment: str):
        its_request, request = os.pipe()
        output, its_output = os.pipe()
        status, its_status = os.pipe()
        with open(request, "w") as file:
            json.dump({"words": words, "folder": os.getcwd(), "environment": ENVIRONMENT | environment}, file)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect(f"\0{server()}")
            socket.send_fds(channel, [b"x"], [its_request, its_output, its_status])
        for file in (its_request, its_output, its_status):
            os.close(file)
        self.args = words
        self.stdout = open(output)  # noqa: SIM115
        self.returncode: int | None = None
        self._status = open(status)  # noqa: SIM115
        self.pid = int(self._status.readline())

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """Wait for the end of the program and return its exit code, negative for a signal. Too late is TimeoutExpired."""
        if self.returncode is None:
            with self._within(timeout), self._status:
                self.returncode = int(self._status.readline())
        return self.returncode

    def communicate(self, timeout: float = PATIENCE_S) -> tuple[str, None]:
        """Read the rest of the output, until all who could write it have ended, and wait for the program."""
        with self._within(timeout), self.stdout:
            rest = self.stdout.read()
        self.wait(timeout)
        return rest, None

    @contextlib.contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Kill the program and its children when the block takes longer, and raise TimeoutExpired."""
        late = threading.Event()

        def end() -> None:
            late.set()
            os.killpg(self.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, end)
        timer.start()
        yield
        timer.cancel()
        if late.is_set():
            raise subprocess.TimeoutExpired(self.args, seconds)


@cache
def server() -> str:
    """Return the address of the server, and start it first if no one has. It ends with the process that started it.

    Under xdist the process that starts the others starts the server too (tests/conftest.py).
    """
    if given := os.environ.get("FORK_SERVER"):
        return given
    address = f"svd-mv-fork-server-{os.getpid()}"
    life, _ = os.pipe()  # whose other end closes when this process ends
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as requests:
        requests.bind(f"\0{address}")
        files = (requests.fileno(), life)
        subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.forkserver", *map(str, files)],
            cwd=ROOT, env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL, pass_fds=files, start_new_session=True,
        )  # fmt: skip
    os.close(life)
    os.environ["FORK_SERVER"] = address
    return address


def accelerate_launch(*arguments: str, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess:
    """`python -m accelerate.commands.launch ARGUMENTS` in the project's folder; the output is stdout and stderr together."""
    command = [sys.executable, *LAUNCHER, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )


def forked_launch(*arguments: str) -> subprocess.CompletedProcess:
    """The same launch, of forks: a third of the CPU time."""
    launch = Fork(*LAUNCHER, *arguments)
    output, _ = launch.communicate()
    return subprocess.CompletedProcess(launch.args, launch.returncode, output)
