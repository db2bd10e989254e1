"""What a run learned, drawn: `python benchmarks/curves.py runs/NAME curves.png`.

Two panels over the steps, of held-out orbits, and of training orbits if they were validated too: `val/loss`, and the PSNR
of the novel views beside that of the input view repeated.
"""

import sys
from pathlib import Path

from long_run import read
from plot import plot

KINDS = {"held-out": "", "training": "seen_"}


def main() -> None:
    run, path = sys.argv[1:]
    rows = [line for line in read(Path(run, "metrics.jsonl")) if "val/loss" in line]

    def curve(name: str) -> list[tuple[float, float]]:
        return [(row["step"], row[f"val/{name}"]) for row in rows]

    kinds = {kind: prefix for kind, prefix in KINDS.items() if f"val/{prefix}loss" in rows[0]}
    psnr = {kind: curve(f"{prefix}psnr_novel") for kind, prefix in kinds.items()}
    repeated = {f"{kind}, repeated": curve(f"{prefix}input_repeated_psnr_novel") for kind, prefix in kinds.items()}
    losses = {kind: curve(f"{prefix}loss") for kind, prefix in kinds.items()}
    plot(Path(path), {"loss": losses, "PSNR of novel views, dB": psnr | repeated}, from_zero=False)


if __name__ == "__main__":
    main()
