"""A request to stop ends a run that waits for data in vain."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
from torch.utils.data import Dataset

import training.stop
from dataset.records import Records
from dataset.views import OrbitViews
from tests.helpers.orbits import write_orbits
from tests.helpers.web import serving
from training.loading import load_batches, timed_next
from training.stop import StopRequests
from utils.errors import UserError


@pytest.fixture
def stop(tmp_path, monkeypatch):
    monkeypatch.setattr(training.stop, "DATA_S", 0.1)
    with StopRequests(tmp_path) as stop:
        yield stop


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_before_or_while_the_step_waits_lets_it_wait_a_little_longer_and_no_more(stop):
    for _ in range(2):
        with pytest.raises(UserError, match=r"stopped by SIGTERM: no data came for 0\.1 s"), stop.while_waiting():
            terminate()
            time.sleep(10)


def test_data_that_comes_in_time_lets_the_step_go_on(stop):
    before = signal.getsignal(signal.SIGALRM)
    with stop.while_waiting():
        terminate()
    time.sleep(0.15)
    assert stop.requested() and signal.getsignal(signal.SIGALRM) == before


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_server_that_never_answers_does_not_hold_a_run_that_is_to_stop(stop, tmp_path, num_workers):
    data = write_orbits(tmp_path)
    with serving() as web:
        for path in tmp_path.glob("*.png"):
            web.faults[path.name] = ["silent"] * 9
        views = OrbitViews(Records(data.meta, 4), data.model_copy(update={"root": web.url}), seed=0)
        with load_batches(views, iter([[0]]), num_workers) as batches:
            timer = threading.Timer(0.2, terminate)
            timer.start()
            started = time.monotonic()
            with pytest.raises(UserError, match="stopped by SIGTERM"):
                timed_next(batches, stop.while_waiting())
            assert time.monotonic() - started < 15, "far less than the server's four times 20 s"
            timer.join()


class Parents(Dataset):
    """A sample is the number of the process that the loading process was started by."""

    def __getitem__(self, _: int) -> int:
        return os.getppid()


def test_loading_processes_are_ours_whatever_python_starts_others_by(monkeypatch):
    """Python 3.14 starts them by a server, which a signal to all processes of a run would end, and they with it."""
    monkeypatch.setattr("training.loading.collate", lambda samples: samples)
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        with load_batches(Parents(), iter([[0], [1, 2]]), num_workers=1) as batches:
            assert [*batches] == [[os.getpid()], [os.getpid()] * 2]
    finally:
        multiprocessing.set_start_method(before, force=True)
