"""`python supervisor.py COMMAND ...`: runs the command, and ends it when whoever started us ends.

Standard input is a pipe that nobody writes to: it closes when the other end dies, by SIGKILL too, and then our whole process
group goes. (Linux' prctl would end the command, not what the command has started.)
"""

import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    try:
        process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"error: {sys.argv[1]}: cannot be started: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(127)  # job.NOT_STARTED_EXIT_CODE: nothing of ours can be imported under -I
    threading.Thread(target=_end_with_parent, daemon=True).start()
    code = process.wait()
    os._exit(code if code >= 0 else 128 - code)  # not through exit handlers: the thread is still reading


def _end_with_parent() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
