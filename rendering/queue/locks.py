"""OUT/.lock, which is never written to: the kernel's locks on its bytes go when their process does.

Byte 0 is held by whoever writes a file of OUT's own, byte 1 + n by whoever renders object number n. Two more bytes are for what
takes long and must not hold up the others. This works across machines that share the file system.
"""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Bytes of the file.
FILES = 0  # OUT's own files
SHEETS = 2**62 + 1  # their drawing
INDEX = 2**62 + 2  # Objaverse's index
DEADLOCK_POLL_S = 0.05


class Locks:
    def __init__(self, path: Path):
        """Raises OSError if the file cannot be opened."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        # The kernel's locks are the process's: they do not part its threads.
        self._threads = {byte: threading.Lock() for byte in (FILES, SHEETS, INDEX)}

    def close(self) -> None:
        os.close(self._file)

    @contextmanager
    def alone(self, byte: int) -> Iterator[None]:
        """Be the only thread of the only process, on any machine, that works on FILES, SHEETS or INDEX."""
        with self.thread_alone(byte), self.process_alone(byte):
            yield

    def thread_alone(self, byte: int) -> threading.Lock:
        return self._threads[byte]

    @contextmanager
    def process_alone(self, byte: int) -> Iterator[None]:
        self._wait_for(byte)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)

    def _wait_for(self, byte: int) -> None:
        """The kernel takes all threads of a process for one, and so may see a deadlock among them where there is none."""
        while True:
            try:
                return fcntl.lockf(self._file, fcntl.LOCK_EX, 1, byte)
            except OSError as error:
                if error.errno != errno.EDEADLK:
                    raise
            time.sleep(DEADLOCK_POLL_S)

    def take(self, number: int) -> bool:
        """Claim an object, if no other process has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + number)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def give_back(self, number: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, 1 + number)
