"""What does a GPU need for which training, engine, size and batch? `python benchmarks/footprint_table.py`, some ten minutes.

It prints the table of docs/engines.md, in GiB, predicted for SVD with whole blocks as checkpoints. The names of `model.train`
on the command line choose rows. The UNet is counted for a batch of 1, and larger batches take a multiple of it.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.footprint import GIB, Sizes, footprint
from training.launch_file import find_launch
from training.prediction import count_sizes
from utils.config import load_config
from utils.schemas import CheckSettings, TrainConfig

CONFIG = "train_config/train_local_svd_mv.yaml"
LAUNCHES = {  # column: (launch file, number of processes)
    "no engine": ("one_gpu", 1),
    "ZeRO-2 on 1": ("deepspeed_zero_2_one_gpu", 1),
    "ZeRO-2 on 8": ("deepspeed_zero_2", 8),
    "offload on 1": ("deepspeed_zero_2_offload", 1),
}


def main() -> None:
    launches = {
        column: find_launch(CheckSettings(launch_file=f"accelerate_config/{name}.yaml", num_processes=count))
        for column, (name, count) in LAUNCHES.items()
    }
    print(f"| train | px | batch | {' | '.join(launches)} |")
    print("|---|--:|--:|" + "--:|" * len(launches))
    for train in sys.argv[1:] or ("all", "temporal", "lora"):
        for size_px in (320, 448, 576):
            cfg = load_config(TrainConfig, [CONFIG, f"model.train={train}", f"data.size_px={size_px}"])
            counted = {precision: count_sizes(cfg, precision)[0] for precision in ("bf16", "autocast")}
            for batch_size in (1, 2, 4):
                sizes = (of_batch(counted[launch.precision], batch_size) for launch in launches.values())
                totals = [footprint(launch, size).total / GIB for launch, size in zip(launches.values(), sizes)]
                print(
                    f"| {train} | {size_px} | {batch_size} | " + " | ".join(f"{total:.0f}" for total in totals) + " |"
                )


def of_batch(sizes: Sizes, batch_size: int) -> Sizes:
    """What a batch of 1 keeps and computes again, times `batch_size`. The encoders take a few views at a time anyway."""
    one = sizes.training
    training = replace(one, kept=one.kept * batch_size, peak=one.peak * batch_size, flop=one.flop * batch_size)
    return replace(sizes, training=training)


if __name__ == "__main__":
    main()
