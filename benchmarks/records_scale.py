"""How long does it take to open N records of 21 views, and how much memory? `python benchmarks/records_scale.py [1000000]`

Seconds are of CPU, beside those of json.loads for the same lines: others on the machine change them less than the clock's.
Memory is what opening adds to a process and four loading processes together: their proportional set sizes, of Linux.
"""

import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from dataset.order import record_index
from dataset.records import Records

NUM_WORKERS = 4
READS = 1000


def write_records(path: Path, number: int) -> None:
    with open(path, "w") as file:
        for i in range(number):
            paths = [f"{i // 1000:03d}/{i:08d}/{view:03d}.png" for view in range(21)]
            file.write(json.dumps({"id": f"{i:08d}", "image_path": paths, "elevation": [i % 35 - 5.0] * 21}) + "\n")


def timed_open(path: Path) -> tuple[Records, float]:
    started = time.process_time()
    records = Records(path, 21)
    return records, time.process_time() - started


def seconds_of_json(path: Path) -> float:
    """Return what json.loads takes for every line."""
    started = time.process_time()
    with open(path, "rb") as file:
        for line in file:
            json.loads(line)
    return time.process_time() - started


def memory_mib() -> float:
    """Return the proportional set size of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def read_some(records: Records, all_have_read, sizes) -> None:
    """Be a loading process: read records in the order of training, then tell the memory that it takes."""
    started = time.perf_counter()
    for n in range(READS):
        records[record_index(0, n, len(records))]
    each = (time.perf_counter() - started) / READS
    all_have_read.wait()
    sizes.put((memory_mib(), each))
    all_have_read.wait()


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "svd_meta.jsonl")
        write_records(path, number)
        before = memory_mib()
        _, first = timed_open(path)
        records, later = timed_open(path)
        plain = seconds_of_json(path)
        fork = multiprocessing.get_context("fork")
        all_have_read = fork.Barrier(NUM_WORKERS + 1)
        sizes = fork.Queue()
        workers = [fork.Process(target=read_some, args=(records, all_have_read, sizes)) for _ in range(NUM_WORKERS)]
        for worker in workers:
            worker.start()
        all_have_read.wait()
        answers = [sizes.get() for _ in workers]
        added = memory_mib() + sum(size for size, _ in answers) - before
        all_have_read.wait()
        for worker in workers:
            worker.join()
        each = sum(seconds for _, seconds in answers) / NUM_WORKERS
        print(
            f"{number:,} records ({path.stat().st_size / 2**20:,.0f} MiB): opened in {first:.1f} s of CPU, later in"
            f" {later:.2f} s; json.loads takes {plain:.1f} s"
        )
        print(f"{added:,.0f} MiB more for this process and {NUM_WORKERS} loading processes together")
        print(f"{1e6 * each:.0f} microseconds to read one record")


if __name__ == "__main__":
    main()
