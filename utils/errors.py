"""The one kind of error that a user can fix, and how it is shown."""

import os
import reprlib
import sys
from typing import ClassVar

MAX_VALUE = 200  # characters of a value that an error repeats
MAX_LINE = 4000  # characters of a whole error
MAX_REASON = 300  # characters of why one item of many failed


class _Repr(reprlib.Repr):
    def repr_int(self, value: int, level: int) -> str:
        try:
            return super().repr_int(value, level)
        except ValueError:  # Python writes no number of more than 4,300 digits
            return f"<a number of {value.bit_length():,} bits>"


_repr = _Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = MAX_VALUE


class UserError(ValueError):
    """An error that a user can fix. `main.py` prints its message as one line, without a traceback, and exits with 2."""


class ItemFailure(Exception):
    """What costs one item of many, not the command. `kind` is one of KINDS; the reason is one short printable line."""

    KINDS: ClassVar[dict[str, str]]  # {kind: what it means}

    def __init__(self, kind: str, reason: str):
        assert kind in self.KINDS, kind
        super().__init__(one_line(reason, MAX_REASON))
        self.kind = kind

    @property
    def reason(self) -> str:
        return str(self)


def shown(value: object) -> str:
    """Return `value` as Python writes it, for an error that repeats it. A long one is cut."""
    return _repr.repr(value)


def cut(text: str, limit: int = MAX_VALUE) -> str:
    """Return `text`, without its middle if it is longer than `limit`."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or the name of its class if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def one_line(message: str, limit: int = MAX_LINE) -> str:
    """Return a message as one line of at most `limit` characters, without any that a terminal would obey."""
    line = cut(" ".join(message.split()), limit)
    return cut("".join(letter if letter.isprintable() else _escape(letter) for letter in line), limit)


def escaped(name: object) -> str:
    """Return a name, or a path, with its line breaks and the like as `\\n`. Then no two names look alike."""
    return "".join(letter if letter.isprintable() and letter != "\\" else _escape(letter) for letter in str(name))


def _escape(letter: str) -> str:
    return ascii(letter)[1:-1]


def drop_output() -> None:
    """Print to nowhere from now on. Python would write the rest at its end, and print an error of its own where it cannot."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.__stdout__.fileno())
    os.close(nowhere)
