"""A server of warm processes. It imports the program once; a test's process is then a fork of it, and imports nothing.

Why: a process that trains imports torch, diffusers, accelerate and DeepSpeed, 5 to 9 seconds of CPU, and a launch is three of
them. Over the suite that was half of its time.

How: `tests/helpers/launch.py` starts this file once for all processes of pytest, and each sends it a byte for each
program, with three file descriptors: the request as JSON, where the output goes, and where to tell how it ended. The server
forks a watcher, and the watcher forks the program. The program leads a session of its own, and has the environment, the folder,
the arguments and the output of the request; it ends as Python does, not by `os._exit`. The watcher tells the program's id, waits
for its end, and tells its exit code.

That is safe because the server itself never computes: it has one thread, no process group, no random number drawn.

`-m accelerate.commands.launch` is accelerate's own launcher, and torch's elastic agent under it. One thing is changed: the agent
is given a function that runs the program in a fork, instead of a command that starts Python again. So the ranks' environment is
what accelerate and torch set. tests/test_forkserver.py compares all of this with real processes.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path

from tests.helpers.launch import heed_terminal

PROGRAM = (
    "main", "commands.train", "commands.check", "commands.sample", "commands.evaluate", "commands.render",
    "accelerate.commands.config", "deepspeed", "deepspeed.launcher.runner", "torch._dynamo", "torch.distributed.run",
    # What ranks under ZeRO import beside it:
    "torch._inductor.compile_fx", "functorch.compile", "torch.utils.cpp_extension", "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.superoffload.superoffload_stage3", "deepspeed.module_inject.auto_ep_layer",
)  # fmt: skip


def serve(requests: socket.socket, life: int) -> list[int]:
    """Fork a process for every request until `life` is closed. Returns in the forked process, with the request's files."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a watcher that has ended is no zombie
    while True:
        ready, _, _ = select.select([requests, life], [], [])
        if life in ready:
            os._exit(0)
        _, files, _, _ = socket.recv_fds(requests, 1, 3)
        if os.fork() == 0:
            requests.close()
            os.close(life)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return files
        for file in files:
            os.close(file)


def watch(request: int, output: int, status: int) -> None:
    """Fork the program's process, and return in it. Its parent tells its id, waits for it, and tells its exit code."""
    program = os.fork()
    if program == 0:
        os.close(status)
        return
    os.close(request)
    os.close(output)
    os.write(status, f"{program}\n".encode())
    _, state = os.waitpid(program, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(state)}\n".encode())
    os._exit(0)


def become(request: int, output: int) -> list[str]:
    """Take the session, output, environment and folder of the request, and return its words."""
    with open(request) as file:
        asked = json.load(file)
    os.setsid()
    heed_terminal()
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    os.close(output)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    return asked["words"]


def run(words: list[str]) -> None:
    """What `python WORDS` does: run a module or a file as the main program."""
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = words
    sys.path[0] = str(Path(words[0]).resolve().parent)
    runpy.run_path(words[0], run_name="__main__")


def rank(*words: str) -> None:
    """One rank of a launch, in a process that torch's elastic agent forked for it, with the rank's environment."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # the agent has handlers of its own
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert words[0] == "-u", words  # how the agent starts Python: without buffers
    sys.stdout.reconfigure(write_through=True)
    try:
        run(list(words[1:]))
    except SystemExit as end:
        if end.code:
            raise


def fork_ranks() -> None:
    """Have torch's elastic agent fork the ranks of a launch, where it would start `python -u main.py ...`."""
    import torch.distributed.run as agent

    class Launch(agent.elastic_launch):
        def __init__(self, config, entrypoint):
            assert entrypoint == sys.executable, entrypoint
            config.start_method = "fork"
            super().__init__(config, rank)

    agent.elastic_launch = Launch


if __name__ == "__main__":
    for name in PROGRAM:
        importlib.import_module(name)
    sys.stdout.flush()
    gc.freeze()  # the collector of a fork leaves alone, and so does not copy, what was there before it
    files = serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    watch(*files)
    words = become(*files[:2])
    fork_ranks()
    run(words)
