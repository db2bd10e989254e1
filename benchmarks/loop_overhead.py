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

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import commands.train as loop
from models.conditioning import Conditioning
from models.objective import draw
from training.optimizer import make_optimizer
from utils.config import load_config
from utils.schemas import TrainConfig


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    bare: list[float] = []  # seconds
    ours: list[float] = []  # seconds
    marks: list[float] = []  # when the loop's steps began
    prepared = {}
    original_prepare = loop.prepare

    def prepare(unet, *arguments, **keywords):
        prepared["unet"] = copy.deepcopy(unet).train()
        prepared["optimizer"] = make_optimizer(prepared["unet"], cfg.optim, arguments[-1])
        return original_prepare(unet, *arguments, **keywords)

    def bare_step(cfg) -> None:
        unet = prepared["unet"]
        shape = (cfg.train.batch_size, cfg.data.num_frames, 8, cfg.data.size_px // 8, cfg.data.size_px // 8)
        sample = torch.randn(shape)
        target = torch.randn(*shape[:2], 4, *shape[3:])
        embeds = torch.randn(shape[0], 1, unet.config.cross_attention_dim)
        ids = torch.rand(shape[0], 3)
        started = time.perf_counter()
        output = unet(sample, torch.rand(shape[0]), embeds, ids, return_dict=False)[0]
        (output - target).square().mean().backward()
        prepared["optimizer"].step()
        prepared["optimizer"].zero_grad()
        bare.append(time.perf_counter() - started)

    def timed_next(batches):
        """Note the end of the loop's last step, take a bare step, and start the clock again. A step of the loop begins here."""
        if marks:
            ours.append(time.perf_counter() - marks[-1])
        if "orbits" not in prepared:
            prepared["orbits"] = next(batches)
        bare_step(cfg)
        marks.append(time.perf_counter())
        return prepared["orbits"], 0.0

    def encode(orbit, encoders, seed, noise, device):
        """Return the real draws, with latents and conditioning that need no VAE and no CLIP."""
        side = cfg.data.size_px // 8
        draws = draw(
            seed, orbit.n, noise, (cfg.data.num_frames, 4, side, side), (3, cfg.data.size_px, cfg.data.size_px)
        )
        cond = Conditioning(draws.noise[:, 0], torch.ones(len(orbit.n), 1, 32), torch.ones(len(orbit.n), 3))
        return draws.noise.flip(0), cond, draws

    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            f"run.dir={folder}",
            "run.tracker=none",
            "data.num_workers=0",
            "validation.every_steps=0",
            "train.save_every_steps=0",
        ]
        cfg = load_config(
            TrainConfig, ["train_config/tiny_cpu.yaml", *overrides, f"train.max_steps={steps + 1}", *sys.argv[2:]]
        )
        loop.prepare = prepare
        loop.timed_next = timed_next
        loop.encode = encode
        loop.train(cfg)
    warm = steps // 4
    bare_ms, ours_ms = (1000 * statistics.median(times[warm:]) for times in (bare[:steps], ours))
    differences = [1000 * (a - b) for a, b in zip(ours[warm:], bare[warm:])]
    print(
        f"bare step {bare_ms:.1f} ms, the loop's step {ours_ms:.1f} ms: {ours_ms - bare_ms:+.1f} ms ({ours_ms / bare_ms - 1:+.1%})"
    )
    print(f"median of the {len(differences)} differences {statistics.median(differences):+.1f} ms")


if __name__ == "__main__":
    main()
