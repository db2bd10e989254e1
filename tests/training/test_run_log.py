"""A log that cannot be written is one line, not a traceback at every line."""

import logging

from training.run_folder import _RunLog


def test_a_log_on_a_full_disk_warns_once_and_raises_nothing(capsys):
    log = logging.Logger("of this test")
    log.addHandler(_RunLog("/dev/full"))
    for number in range(3):
        log.info(f"step {number}")
    assert capsys.readouterr().err == "warning: /dev/full: cannot be written: [Errno 28] No space left on device\n"
