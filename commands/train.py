"""`main.py train`: the training loop. `train` reads top to bottom; the functions below it are in the order of their use."""

import logging
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dataset.images import to_float
from dataset.order import Share
from dataset.views import OrbitBatch
from models.conditioning import Conditioning, drop_conditions
from models.encoders import Encoders
from models.lora import restore_adapter
from models.objective import Draws, denoising_loss, draw
from models.svd import Svd, load_svd, require_size
from models.trainable import choose_trainable
from training.checkpoint import save_checkpoint
from training.feeding import open_records, open_samples
from training.finite import StepCheck
from training.gauge import Gauge, make_gauge
from training.launch import Accelerator, hide_bar, make_accelerator
from training.loading import load_batches, timed_next
from training.memory import explain_out_of_memory
from training.pruning import prune
from training.resume import Resume, find_resume, restore
from training.run_folder import open_run
from training.saved_model import find_base
from training.schedule import due, ema_decay_at, lr_at
from training.state import prepare
from training.stop import StopRequests
from training.trackers import Trackers
from training.validation import Validation, summary_of, validation_due
from training.window import Meter, Window
from utils.config import to_json
from utils.schemas import ModelSettings, NoiseSettings, TrainConfig

log = logging.getLogger("svd_mv")


def train(cfg: TrainConfig) -> None:
    accelerator = make_accelerator(cfg.train, cfg.optim)
    with open_run(cfg.run, accelerator) as folder, explain_out_of_memory():
        train_in(folder, cfg, accelerator)
    accelerator.end_training()  # after a crash the process ends without waiting for the others


def train_in(folder: Path, cfg: TrainConfig, accelerator: Accelerator) -> None:
    is_first = accelerator.is_main_process
    device = accelerator.device
    records, held_out = open_records(cfg, accelerator)
    views = open_samples(records, cfg, accelerator)
    last_step = cfg.train.max_steps
    resume = find_resume(folder, cfg, records.description, accelerator)
    if resume.finished(last_step):
        log.info(f"{folder} is finished: {resume.step} of {last_step} steps; raise train.max_steps to go on")
        return

    with (
        ExitStack() as exits,
        Trackers(folder, resume.step, resume.owes_validation, cfg.run, to_json(cfg), is_first) as trackers,
        StopRequests(folder) as stop,
        tqdm(total=last_step, initial=resume.step, unit="step", disable=hide_bar(accelerator)) as bar,
    ):
        svd = load_start(cfg.model, cfg.run.seed, resume, accelerator)
        encoders = svd.encoders
        require_size(svd.unet, encoders, cfg.data.size_px)
        state = prepare(svd.unet, cfg.model, cfg.optim, cfg.train, accelerator)
        if resume.checkpoint:
            restore(state, resume.checkpoint, cfg.optim)
        validation = Validation(
            folder, held_out, records, cfg.data, cfg.validation, encoders, svd.sigma_range, trackers
        )
        object_fill = views.measure_object_fill() if is_first else None
        share = Share(
            accelerator.process_index, accelerator.num_processes, cfg.train.batch_size, cfg.train.grad_accum_steps
        )
        numbers = share.micro_batches(resume.samples, last_step - resume.step)
        batches = exits.enter_context(load_batches(views, numbers, cfg.data.num_workers))
        meter = Meter(resume.window, cfg.noise.P_mean, cfg.noise.P_std)
        gauge = make_gauge(state.unet, encoders.latent_shape(cfg.data.num_frames, cfg.data.size_px), accelerator)
        log.info(f"{len(records)} records, {share.global_batch} orbits a step, {resume.step} -> {last_step} steps")

        if resume.owes_validation:
            validation.run(resume.step, state)
        for step in range(resume.step + 1, last_step + 1):
            started = time.perf_counter()
            waited = 0.0
            lr = lr_at(step - 1, cfg.optim, last_step)
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            check = StepCheck(step, accelerator)
            for _ in range(cfg.train.grad_accum_steps):
                orbits, seconds = timed_next(batches, stop.while_waiting())
                waited += seconds
                with accelerator.accumulate(state.model):
                    latents, cond, draws = encode(orbits, encoders, cfg.run.seed, cfg.noise, device)
                    losses = denoising_loss(state.model, latents, cond, draws.sigma, draws.noise)
                    check.add(orbits.n, orbits.places, losses)
                    meter.add(losses, draws.sigma)
                    if accelerator.sync_gradients:  # the last micro-step
                        stopping = check.agree(stop.pending())
                    accelerator.backward(losses.mean())  # under DeepSpeed the last one clips and steps as well
                    if accelerator.sync_gradients:
                        grad_norm = state.clip(cfg.optim.max_grad_norm)
                        check.require_finite(grad_norm)
                    state.optimizer.step()
                    state.optimizer.zero_grad()
            state.ema.update(ema_decay_at(step - 1, cfg.train.ema_decay, cfg.train.ema_warmup))
            meter.end_step(grad_norm, time.perf_counter() - started, waited)
            bar.update()

            if due(step, cfg.train.log_every_steps) or step == last_step:
                log_progress(step, lr, meter.gathered(accelerator), gauge, trackers, bar)
                meter.clear()
            if due(step, cfg.train.save_every_steps) or step == last_step or stopping:
                samples = resume.samples + (step - resume.step) * share.global_batch
                meta = {"step": step, "samples": samples, "window": meter.gathered(accelerator).to_json()}
                meta |= {"config": to_json(cfg), "records": records.description, "object_fill": object_fill}
                log.info(f"saved {save_checkpoint(folder, meta, state)}")
                if is_first:
                    prune(folder, cfg.train)
            validates = validation_due(step, cfg.validation.every_steps, last_step)
            if stopping and (validates or step < last_step):
                log.info(f"stopped at step {step} as requested; the same command goes on from there")
                return
            if validates:
                validation.run(step, state)
    log.info(f"finished {last_step} steps in {folder}{summary_of(folder)}")


def load_start(model: ModelSettings, seed: int, resume: Resume, accelerator: Accelerator) -> Svd:
    """Load what training starts from, and choose what is trained: the base, with the weights of the checkpoint if there is one.

    An adapter goes on with the base that it was begun on, not with the merged weights, which are rounded.
    """
    with accelerator.local_main_process_first():  # a hub's base is downloaded once per machine
        base = find_base(model)
    if resume.checkpoint and model.train != "lora":
        base = replace(base, unet=resume.checkpoint / "unet")
    svd = load_svd(base, model)
    log.info(choose_trainable(svd.unet, model, seed))
    if resume.checkpoint and model.train == "lora":
        restore_adapter(svd.unet, resume.checkpoint / "lora")
    encoders = svd.encoders.to(accelerator.device)
    log.info(encoders.describe())
    return replace(svd, encoders=encoders)


def encode(
    orbits: OrbitBatch, encoders: Encoders, seed: int, noise: NoiseSettings, device: torch.device
) -> tuple[Tensor, Conditioning, Draws]:
    """Return scaled latents (B F C h w), their conditioning with its dropout, and the random numbers of the samples."""
    pixels = to_float(orbits.pixels.to(device, non_blocking=True))  # B F 3 H W
    elevation_deg = orbits.elevation_deg.to(device, non_blocking=True)
    if orbits.latents is None:
        modes = encoders.modes(pixels)
        image_embeds = encoders.image_embeds(pixels[:, 0])
    else:
        modes = orbits.latents.to(device, non_blocking=True)
        image_embeds = orbits.image_embeds.to(device, non_blocking=True)[:, None]
    draws = draw(seed, orbits.n, noise, modes.shape[1:], pixels.shape[2:]).to(device)
    cond_mode = modes[:, 0]  # from a cache, where the noise is too weak to be seen
    if pixels.shape[1]:
        cond_mode = encoders.noised_mode(pixels[:, 0], draws.noise_aug_strength, draws.cond_noise)
    cond = encoders.condition_encoded(cond_mode, image_embeds, elevation_deg, draws.noise_aug_strength)
    return encoders.scaled(modes), drop_conditions(cond, draws.dropped), draws


def log_progress(step: int, lr: float, window: Window, gauge: Gauge, trackers: Trackers, bar: tqdm) -> None:
    """Tell the trackers what happened since the last line; where no bar is shown, print the essence and the time left.

    Collective.
    """
    means = window.means() | {"lr": lr} | gauge.read(window)
    trackers.scalars(step, {f"train/{name}": value for name, value in means.items()})
    bar.set_postfix(loss=f"{means['loss']:.3f}", orbits_per_s=f"{means['orbits_per_s']:.2f}", refresh=False)
    if bar.disable:
        left = (bar.total - step) * window.seconds / len(window.grad_norms)
        shown = (
            "loss", "grad_norm", "lr", "orbits_per_s", "orbits_per_s_per_device", "tflop_per_s_per_device",
            "peak_memory_gib", "peak_memory_reserved_gib",
        )  # fmt: skip
        numbers = " ".join(f"{name} {means[name]:.4g}" for name in shown if name in means)
        log.info(f"step {step}/{bar.total}: {numbers}, {left / 60:.1f} min left")
