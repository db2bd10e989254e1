"""How much host memory do two ranks hold while they load a UNet of 134 M parameters and an engine takes it over?

`python benchmarks/loading_memory.py [LAUNCH_FILE]`; by default DeepSpeed ZeRO-2. It prints each rank's proportional set size
(Pss: a page that several processes share counts in parts) in bytes per parameter. On a CPU the engine's own memory is in it.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch
from diffusers import UNetSpatioTemporalConditionModel

sys.path.insert(0, str(Path(__file__).parent.parent))

from commands.train import load_start
from training.launch import make_accelerator
from training.resume import Resume
from training.state import prepare
from training.window import Window
from utils.config import load_config
from utils.schemas import TrainConfig

# The real architecture with fewer channels, for the CLIP of tiny_svd.
SMALLER = {"block_out_channels": (96, 192, 384, 384), "num_attention_heads": (6, 12, 24, 24), "cross_attention_dim": 32}


def main() -> None:
    launch_file = sys.argv[1] if len(sys.argv) > 1 else "accelerate_config/deepspeed_zero_2.yaml"
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder, "base")
        shutil.copytree("tiny_svd", base, ignore=shutil.ignore_patterns("unet"))
        UNetSpatioTemporalConditionModel(num_frames=21, **SMALLER).save_pretrained(base / "unet")
        launch = ("-m", "accelerate.commands.launch", "--config_file", launch_file, "--num_processes", "2")
        subprocess.run([sys.executable, *launch, __file__, "rank", str(base)], check=True)


def pss() -> int:
    """Return this process's proportional set size in bytes."""
    return 1024 * int(re.search(r"^Pss: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.M)[1])


class Peak:
    """Follows the Pss while something runs."""

    def __enter__(self) -> "Peak":
        self.value = pss()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._follow)
        self.thread.start()
        return self

    def _follow(self) -> None:
        while not self.ended.wait(0.05):
            self.value = max(self.value, pss())

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.thread.join()


def measure(base: str) -> None:
    cfg = load_config(TrainConfig, ["train_config/tiny_cpu.yaml", f"model.base={base}", "optim.name=sgd"])
    accelerator = make_accelerator(cfg.train, cfg.optim)
    accelerator.wait_for_everyone()
    before = pss()
    with Peak() as loading:
        svd = load_start(cfg.model, cfg.run.seed, Resume(None, 0, 0, Window(), owes_validation=False), accelerator)
        size = sum(weight.numel() for weight in svd.unet.parameters())
        accelerator.wait_for_everyone()
        loaded = pss()
        accelerator.wait_for_everyone()
    with Peak() as preparing:
        state = prepare(svd.unet, cfg.model, cfg.optim, cfg.train, accelerator)
        accelerator.wait_for_everyone()
        prepared = pss()
        accelerator.wait_for_everyone()
    rows = {"loading, peak": loading.value, "loaded": loaded, "preparing, peak": preparing.value, "prepared": prepared}
    numbers = ", ".join(f"{name} {(value - before) / size:.1f}" for name, value in rows.items())
    print(f"rank {accelerator.process_index}: {size / 1e6:.0f} M parameters; bytes a parameter: {numbers}", flush=True)
    del state
    accelerator.end_training()


if __name__ == "__main__":
    torch.set_num_threads(1)
    measure(sys.argv[2]) if sys.argv[1:2] == ["rank"] else main()
