"""A signal asks to stop, once, and the handlers are put back."""

import os
import signal
import subprocess
import sys
import time

from utils.signals import AT_ONCE_S, Interrupts, StopSignals

TIDIES_LONG = """
import os, signal, sys, time
from utils.signals import AT_ONCE_S, Interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
with Interrupts():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("the same signal, passed on by a launcher", flush=True)
        time.sleep(AT_ONCE_S)
        os.kill(os.getpid(), signal.SIGTERM)
        print("never")
"""


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
        assert further == [], "what comes at once is the same request: a closing terminal sends SIGHUP twice"
        time.sleep(AT_ONCE_S)
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


def test_an_interrupt_leaves_handlers_as_before_when_none_came():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_second_signal_ends_who_tidies_up_too_long():
    answer = subprocess.run([sys.executable, "-c", TIDIES_LONG], capture_output=True, text=True)
    assert answer.returncode == 128 + signal.SIGTERM and answer.stderr == ""
    assert answer.stdout == "the same signal, passed on by a launcher\n"
