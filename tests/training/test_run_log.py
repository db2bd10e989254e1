"""A log that cannot be written is one line, not a traceback at every line."""

import logging
import sys

from training import run_folder
from training.run_folder import _Console, _RunLog


def test_a_log_on_a_full_disk_warns_once_and_raises_nothing(capsys):
    log = logging.Logger("of this test")
    log.addHandler(_RunLog("/dev/full"))
    for number in range(3):
        log.info(f"step {number}")
    assert capsys.readouterr().err == "warning: /dev/full: cannot be written: [Errno 28] No space left on device\n"


def test_a_run_goes_on_when_nobody_reads_its_terminal_any_more(monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

    dropped = []
    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(run_folder, "drop_output", lambda: dropped.append(True))
    log = logging.Logger("of this test")
    log.addHandler(_Console())
    log.info("step 1")
    assert dropped
