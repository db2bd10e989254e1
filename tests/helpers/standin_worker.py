"""A renderer's process that does what the asset's second word says: it hangs for `solid hangs`.

It draws a box of 60 x 80 % of the view, which brightens from view to view. It imports nothing large, and so takes 30 ms.
"""

import json
import os
import signal
import struct
import sys
import time
import zlib
from pathlib import Path


def main(job_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    views = Path(job["views"])
    count = len(job["camera_to_world"])
    task = Path(job["asset"]).read_text().split()[1]
    if "STANDIN_LOG" in os.environ:
        with open(os.environ["STANDIN_LOG"], "a") as log:
            log.write(Path(job["asset"]).name + "\n")
    if task in TASKS:
        TASKS[task](views)
    able = os.environ.get("STANDIN_DRAWS")
    refused = "cannot draw velvet" if task in ("refuses", "forbids") and task != able else None
    for view in range(count if task != "omits" else count - 1):
        (views / f"{view:03d}.png").write_bytes(png(task, view, count, job["size_px"]))
    placement = {"centre": [1.0, 2.0, 3.0], "scale": 0.25, "box": [0.9, 0.4, 0.001 if task == "lies" else 0.2]}
    (views / "result.json").write_text(json.dumps({"refused": refused, "object": None if refused else placement}))


def png(task: str, view: int, count: int, size: int) -> bytes:
    gray = 60 + 120 * view // count
    pixel = {"burns": bytes([255] * 4), "vanishes": bytes(4)}.get(task, bytes([gray, gray // 2, 90, 255]))
    side = size // 5
    top = size // 10
    row = b"\0" + bytes(4) * side + pixel * (size - 2 * side) + bytes(4) * side
    empty = b"\0" + bytes(4) * size
    data = zlib.compress(empty * top + row * (size - 2 * top) + empty * top, 1)
    header = struct.pack(">IIBBBBB", size, size, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, (b"IHDR", b"IDAT", b"IEND"), (header, data, b"")))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def crash(views: Path) -> None:
    raise ValueError(f"broken triangle 7 of {views.parent}/part")


def hang(_) -> None:
    if os.fork() == 0:  # its child hangs too
        time.sleep(600)
    time.sleep(600)


def eat(_) -> None:
    block = bytearray(400 << 20)
    for place in range(0, len(block), 4096):
        block[place] = 1
    time.sleep(600)


def blame_machine(_) -> None:
    sys.stderr.write("error: no GPU of any kind\n")
    sys.exit(2)


def terminated(_) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


TASKS = {
    "is_terminated": terminated,
    "crashes": crash,
    "hangs": hang,
    "eats": eat,
    "segfaults": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "stops": lambda _: sys.exit(0),
    "blames": blame_machine,
    "dawdles": lambda _: time.sleep(0.5),
}

if __name__ == "__main__":
    main(sys.argv[1])
