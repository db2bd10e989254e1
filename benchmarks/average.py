"""What the average of the weights costs a step, beside the masters and in the CPU's memory (train.ema_device).

`python benchmarks/average.py [MILLIONS_OF_PARAMETERS] [UPDATES]`: medians of interleaved updates, on the GPU if there is one.
On a CPU nothing has to travel: both are computed in place, and only the number of calls differs.
"""

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.ema import Ema

PCIE_GB_PER_S = 25  # what a PCIe 4.0 x16 link moves in one direction, of its 32


def main() -> None:
    millions = float(sys.argv[1]) if len(sys.argv) > 1 else 100
    updates = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    device = "cuda" if torch.cuda.is_available() else "cpu"
    masters = [torch.randn(int(millions * 1e6 / 200), device=device) for _ in range(200)]
    averages = {"same": Ema(masters), "cpu": Ema(masters, on_host=True)}
    times: dict[str, list[float]] = {name: [] for name in averages}
    for _ in range(updates):
        for name, average in averages.items():
            started = time.perf_counter()
            average.update(0.999)
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - started)
    for name, seconds in times.items():
        median = 1000 * statistics.median(seconds[2:])
        print(f"ema_device={name}: {median:.1f} ms for {millions:g} M parameters on {device}")
    seconds = 8 * millions * 1e6 / (PCIE_GB_PER_S * 1e9)
    print(
        f"predicted for ema_device=cpu of a GPU: {1000 * seconds:.1f} ms, 8 bytes a parameter at {PCIE_GB_PER_S} GB/s"
    )


if __name__ == "__main__":
    main()
