"""The second half of `main.py check`: measure some steps of the run on this machine, with random weights and random orbits."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.utils.data import Dataset

from commands.train import encode
from dataset.order import Share
from dataset.views import OrbitBatch, Sample
from models.blank import blank_svd
from models.encoders import Encoders
from models.objective import denoising_loss
from models.trainable import choose_trainable
from training.feeding import num_views_read
from training.launch import Accelerator, describe_launch, gather_objects, make_accelerator
from training.loading import load_batches, timed_next
from training.memory import explain_out_of_memory, memory_peaks
from training.prediction import peak_tflops
from training.saved_model import find_base
from training.schedule import ema_decay_at
from training.state import TrainState, prepare
from utils.randomness import generator
from utils.schemas import TrainConfig

WARM_UP = 1  # steps before those that are measured: they allocate the optimizer's state and choose kernels


class RandomOrbits(Dataset):
    """Samples of noise in the size of the run's, for a machine without data. Sample n is a function of n."""

    def __init__(self, cfg: TrainConfig, encoders: Encoders):
        data = cfg.data
        self.views = (num_views_read(cfg), 3, data.size_px, data.size_px)
        self.latents = encoders.latent_shape(data.num_frames, data.size_px)
        self.embeds = encoders.image_encoder.config.projection_dim
        self.cached = data.cache is not None

    def __getitem__(self, n: int) -> Sample:
        random = generator(0, n, "view")
        pixels = torch.randint(256, self.views, dtype=torch.uint8, generator=random)
        latents = torch.randn(self.latents, generator=random) if self.cached else None
        embeds = torch.randn(self.embeds, generator=random) if self.cached else None
        return Sample(pixels, torch.tensor(10.0), f"random orbit {n}", n, latents, embeds)


class Laps:
    """Seconds by part of the step. Each part ends when the device has done its work, which training itself does not wait for."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] += time.perf_counter() - started


def measure(cfg: TrainConfig, predicted: dict) -> dict[str, object]:
    """Measure `check.measure_steps` steps, print them beside what was predicted, and return them. Collective."""
    accelerator = make_accelerator(cfg.train, cfg.optim)
    steps = cfg.check.measure_steps
    with explain_out_of_memory():
        seconds = run_steps(cfg, accelerator, WARM_UP + steps)
    peaks = gather_objects([memory_peaks(accelerator.device)])
    orbits = steps * cfg.train.batch_size * cfg.train.grad_accum_steps
    speed = orbits / sum(seconds.values())
    measured = {
        "measured_on": f"{device_name(accelerator.device)}; {describe_launch(accelerator)}",
        "measured_ms": {name: 1000 * value / steps for name, value in seconds.items()},
        "measured_orbits_per_s": speed * accelerator.num_processes,
        "measured_orbits_per_s_per_gpu": speed,
    }
    measured |= {f"measured_{name.replace('memory_', '')}": max(peak[name] for peak in peaks) for name in peaks[0]}
    if accelerator.is_main_process:
        work = predicted["tflop_per_orbit"] + predicted["encode_tflop_per_orbit"]
        limit = cfg.check.peak_tflops or peak_tflops(device_name(accelerator.device))
        measured |= {"measured_tflops": speed * work, "measured_share_of_peak": speed * work / limit if limit else None}
        print_measured(measured, predicted, steps)
    return measured


def run_steps(cfg: TrainConfig, accelerator: Accelerator, steps: int) -> dict[str, float]:
    """Take `steps` steps as `commands.train` does, and return the seconds by part of those after the warm-up."""
    unet, encoders = blank_svd(find_base(cfg.model, config_only=True), cfg.model)
    choose_trainable(unet, cfg.model, cfg.run.seed)
    encoders = encoders.to(accelerator.device)
    state = prepare(unet, cfg.model, cfg.optim, cfg.train, accelerator)
    share = Share(
        accelerator.process_index, accelerator.num_processes, cfg.train.batch_size, cfg.train.grad_accum_steps
    )
    laps = Laps(accelerator.device)
    with load_batches(RandomOrbits(cfg, encoders), share.micro_batches(0, steps), cfg.data.num_workers) as batches:
        for step in range(steps):
            if step == WARM_UP:
                laps = Laps(accelerator.device)
            one_step(step, state, encoders, batches, cfg, laps)
    return dict(laps.seconds)


def one_step(
    step: int, state: TrainState, encoders: Encoders, batches: Iterator[OrbitBatch], cfg: TrainConfig, laps: Laps
) -> None:
    """The step of `commands.train`, in timed parts. Under DeepSpeed `backward` is the optimizer's step as well."""
    accelerator = state.accelerator
    for _ in range(cfg.train.grad_accum_steps):
        with laps.lap("data"):
            orbits, _ = timed_next(batches, nullcontext())
        with accelerator.accumulate(state.model):
            with laps.lap("encode"):
                latents, cond, draws = encode(orbits, encoders, cfg.run.seed, cfg.noise, accelerator.device)
            with laps.lap("forward and backward"):
                losses = denoising_loss(state.model, latents, cond, draws.sigma, draws.noise)
                accelerator.backward(losses.mean())
            with laps.lap("optimizer"):
                if accelerator.sync_gradients:
                    state.clip(cfg.optim.max_grad_norm)
                state.optimizer.step()
                state.optimizer.zero_grad()
    with laps.lap("average"):
        state.ema.update(ema_decay_at(step, cfg.train.ema_decay, cfg.train.ema_warmup))


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def print_measured(measured: dict, predicted: dict, steps: int) -> None:
    print(f"#\n# Measured over {steps} step(s) with random weights, on {measured['measured_on']}")
    peak = f"{measured['measured_peak_gib']:.1f} GiB"
    if "measured_peak_reserved_gib" in measured:
        reserved = f"{measured['measured_peak_reserved_gib']:.1f} with the allocator's holes"
        print(f"# peak memory of tensors: {peak}, predicted {predicted['tensors_gib']:.1f}; {reserved}")
    else:
        print(
            f"# peak memory of the whole process: {peak}; predicted, of tensors alone: {predicted['tensors_gib']:.1f}"
        )
    parts = ", ".join(f"{name} {value:.0f}" for name, value in measured["measured_ms"].items())
    steps_in_backward = predicted["launch"]["zero_stage"] > 0
    print(f"# milliseconds a step: {parts}" + (" (which is in backward under DeepSpeed)" if steps_in_backward else ""))
    share = measured["measured_share_of_peak"]
    of_peak = f", {share:.0%} of its peak" if share else "; its peak is not known: set check.peak_tflops"
    print(
        f"# {measured['measured_orbits_per_s']:.3g} orbits/s in all, {measured['measured_orbits_per_s_per_gpu']:.3g} a process"
        f" = {measured['measured_tflops']:.3g} TFLOP/s{of_peak}"
    )
