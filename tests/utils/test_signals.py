"""A signal asks to stop, once, and the handlers are put back."""

import os
import signal

from utils.signals import StopSignals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_the_first_signal_is_noted_further_ones_are_told_and_the_handlers_are_as_before():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)]
    further = []
    with StopSignals(signal.SIGTERM, signal.SIGUSR2, on_second=further.append) as stop:
        assert not stop.requested()
        send(signal.SIGUSR2)
        assert stop.requested() and stop.number == signal.SIGUSR2 and further == []
        send(signal.SIGTERM)
        assert stop.number == signal.SIGUSR2 and further == [signal.SIGTERM]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)] == before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(signal.SIGHUP) as stop:
            send(signal.SIGHUP)
            assert not stop.requested()
    finally:
        signal.signal(signal.SIGHUP, before)
