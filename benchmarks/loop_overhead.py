"""How many milliseconds does `main.py train` add to the bare forward, backward and optimizer step of the same UNet?

`python benchmarks/loop_overhead.py [STEPS] [section.key=value ...]` trains tiny_cpu.yaml's model without its encoders. Before
each step of the loop it takes a bare one, with a copy of the UNet on latents of the same shape. It prints the medians.
"""

import copy
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import commands.train as loop
from models.conditioning import Conditioning
from models.objective import draw
from training.optimizer import make_optimizer
from utils.config import load_config
from utils.schemas import TrainConfig


class Interleaved:
    """A training in which a bare step is taken before each step of the loop. The data wait: only the first batch is loaded."""

    def __init__(self, steps: int, *words: str, with_encoders: bool = False):
        self.bare: list[float] = []  # seconds
        self.ours: list[float] = []  # seconds
        self._mark: float | None = None  # when the loop's step began
        self._prepare = loop.prepare
        with tempfile.TemporaryDirectory() as folder:
            quiet = ("run.tracker=none", "data.num_workers=0", "validation.every_steps=0", "train.save_every_steps=0")
            words = ("train_config/tiny_cpu.yaml", f"run.dir={folder}", *quiet, f"train.max_steps={steps + 1}", *words)
            self.cfg = load_config(TrainConfig, [*words])
            ours = {"prepare": self.prepare, "timed_next": self.timed_next}
            with mock.patch.multiple(loop, **ours | ({} if with_encoders else {"encode": self.encode})):
                loop.train(self.cfg)
        warm = steps // 4
        self.bare = self.bare[warm:steps]
        self.ours = self.ours[warm:]

    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.bare)

    def prepare(self, unet, *arguments, **keywords):
        self.unet = copy.deepcopy(unet).train()
        self.optimizer = make_optimizer(self.unet, self.cfg.optim, arguments[-1])
        return self._prepare(unet, *arguments, **keywords)

    def bare_step(self) -> None:
        side = self.cfg.data.size_px // 8
        batch = self.cfg.train.batch_size
        frames = self.cfg.data.num_frames
        config = self.unet.config
        sample = torch.randn(batch, frames, config.in_channels, side, side)
        target = torch.randn(batch, frames, config.out_channels, side, side)
        embeds = torch.randn(batch, 1, config.cross_attention_dim)
        ids = torch.rand(batch, 3)
        started = time.perf_counter()
        output = self.unet(sample, torch.rand(batch), embeds, ids, return_dict=False)[0]
        (output - target).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.bare.append(time.perf_counter() - started)

    def timed_next(self, batches, *_):
        """Note the end of the loop's last step, take a bare step, and start the clock again. A step of the loop begins here."""
        if self._mark is None:
            self.orbits = next(batches)
        else:
            self.ours.append(time.perf_counter() - self._mark)
        self.bare_step()
        self._mark = time.perf_counter()
        return self.orbits, 0.0

    def encode(self, orbits, encoders, seed, noise, device):
        """Return the real draws, with latents and conditioning that need no VAE and no CLIP."""
        size_px = self.cfg.data.size_px
        config = self.unet.config
        shape = (self.cfg.data.num_frames, config.out_channels, size_px // 8, size_px // 8)
        draws = draw(seed, orbits.n, noise, shape, (3, size_px, size_px))
        cond = Conditioning(
            draws.noise[:, 0], torch.ones(len(orbits.n), 1, config.cross_attention_dim), torch.ones(len(orbits.n), 3)
        )
        return draws.noise.flip(0), cond, draws


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    run = Interleaved(steps, *sys.argv[2:])
    bare_ms, ours_ms = (1000 * statistics.median(times) for times in (run.bare, run.ours))
    differences = [1000 * (a - b) for a, b in zip(run.ours, run.bare)]
    print(
        f"bare step {bare_ms:.1f} ms, the loop's step {ours_ms:.1f} ms: {ours_ms - bare_ms:+.1f} ms ({run.ratio() - 1:+.1%})"
    )
    print(f"median of the {len(differences)} differences {statistics.median(differences):+.1f} ms")


if __name__ == "__main__":
    main()
