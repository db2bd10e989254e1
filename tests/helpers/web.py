"""A web server in a thread that counts its requests, and fails as it is told."""

import re
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Web(ThreadingHTTPServer):
    """Serves `files`, a dict of {path without the first slash: bytes}.

    `faults[path]` is a list of what goes wrong with the next requests of it, one each: a status such as 503, or "reset",
    "short", "silent", "endless", "whole" (the range is ignored), "other range".
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list] = defaultdict(list)
        self.requests: list[tuple[str, str | None]] = []  # path with its query, and Range
        self.sent: Counter = Counter()  # bytes of each path
        self.authorization: list[str | None] = []
        self.delay_s = 0.0
        self.released = threading.Event()  # set at the end, so that no silent answer outlives it

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass  # a client that goes away in the middle is part of the tests


@contextmanager
def serving() -> Iterator[Web]:
    server = Web()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).lstrip("/")
        wanted = self.headers.get("Range")
        self.server.requests.append((unquote(self.path).lstrip("/"), wanted))
        self.server.authorization.append(self.headers.get("Authorization"))
        time.sleep(self.server.delay_s)
        faults = self.server.faults[path]
        fault = faults.pop(0) if faults else None
        if fault == "silent":
            self.server.released.wait(30)
            self.close_connection = True
        elif fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif fault == "endless":
            self._send_for_ever(path)
        elif isinstance(fault, int):
            self._answer(path, fault, b"", {})
        elif path not in self.server.files:
            self._answer(path, 404, b"", {})
        else:
            self._send_file(path, wanted, fault)

    def _send_file(self, path: str, wanted: str | None, fault: str | None) -> None:
        content = self.server.files[path]
        status, headers = 200, {"ETag": f'"{hash(content)}"'}
        if wanted and fault != "whole":
            begin, end = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
            if begin >= len(content):
                return self._answer(path, 416, b"", {})
            begin += fault == "other range"
            headers["Content-Range"] = f"bytes {begin}-{min(end, len(content) - 1)}/{len(content)}"
            status, content = 206, content[begin : end + 1]
        self._answer(path, status, content, headers, short=fault == "short")

    def _answer(self, path: str, status: int, content: bytes, headers: dict, short: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if short:
            content = content[: len(content) // 2]
            self.close_connection = True
        self.server.sent[path] += len(content)  # before, for the client may look as soon as it has it
        self.wfile.write(content)

    def _send_for_ever(self, path: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        while not self.server.released.is_set():
            self.wfile.write(bytes(1 << 16))
            self.server.sent[path] += 1 << 16
