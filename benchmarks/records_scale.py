"""How long does it take to open N records of 21 views, and how much memory? `python benchmarks/records_scale.py [1000000]`"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from dataset.order import record_index
from dataset.records import Records


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "svd_meta.jsonl")
        with open(path, "w") as file:
            for i in range(number):
                paths = [f"{i // 1000:03d}/{i:08d}/{view:03d}.png" for view in range(21)]
                file.write(json.dumps({"id": f"{i:08d}", "image_path": paths, "elevation": [i % 35 - 5.0] * 21}) + "\n")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.perf_counter()
        records = Records(path, 21)
        opened = time.perf_counter() - started
        added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
        record_index(0, 0, number)
        started = time.perf_counter()
        for n in range(1000):
            records[record_index(0, n, number)]
        each = (time.perf_counter() - started) / 1000
        print(
            f"{number:,} records ({path.stat().st_size / 2**20:,.0f} MiB): opened in {opened:.1f} s, {added:,.0f} MiB at the peak,"
        )
        print(f"{1e6 * each:.0f} microseconds to read one")


if __name__ == "__main__":
    main()
