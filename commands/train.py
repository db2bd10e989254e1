"""`main.py train`: the training loop. `train` reads top to bottom; the functions below it are in the order of their use."""

import logging
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dataset.order import Share
from dataset.records import Records
from dataset.views import OrbitBatch, OrbitViews, collate, measure_object_fill
from models.conditioning import Conditioning, drop_conditions
from models.encoders import Encoders
from models.objective import Draws, denoising_loss, draw
from models.svd import choose_trainable, compile_blocks, find_base, load_svd, save_unet
from training.checkpoint import (
    Training,
    changed_keys,
    check_engine,
    find_checkpoint,
    load_checkpoint,
    prune,
    read_meta,
    save_checkpoint,
    verify,
)
from training.ema import Ema
from training.masters import is_deepspeed, master_parts, restore_masters
from training.run import StopRequests, any_rank, ignore_signals, make_accelerator, open_run, write_config
from training.schedule import due, ema_decay_at, lr_at
from training.trackers import Trackers
from training.validation import validate_orbits
from training.window import Window, peak_memory_gib
from utils.config import to_json
from utils.errors import UserError
from utils.files import remove_unfinished
from utils.schemas import NoiseSettings, OptimSettings, TrainConfig

log = logging.getLogger("svd_mv")


def train(cfg: TrainConfig) -> None:
    accelerator = make_accelerator(cfg.train, cfg.optim)
    folder = open_run(cfg.run, accelerator)
    records = Records(cfg.data.meta, cfg.data.num_frames)
    held_out = Records(cfg.validation.meta, cfg.data.num_frames)
    if accelerator.is_main_process:
        remove_unfinished(folder / "checkpoints")
    checkpoint = find_checkpoint(folder, cfg)
    first_step, first_sample, window = resume_point(checkpoint, cfg, accelerator)
    last_step = cfg.train.max_steps
    forgotten = validation_forgotten(first_step, cfg, folder, accelerator)
    if first_step >= last_step and not forgotten:
        log.info(f"{folder} is finished: {first_step} of {last_step} steps; raise train.max_steps to go on")
        return
    if accelerator.is_main_process:
        rewind_run(folder, checkpoint, first_step, cfg)
    accelerator.wait_for_everyone()

    hide_bar = not (accelerator.is_main_process and sys.stderr.isatty())
    with (
        Trackers(folder, first_step, cfg, accelerator.is_main_process) as trackers,
        StopRequests(folder) as stop,
        tqdm(total=last_step, initial=first_step, unit="step", disable=hide_bar) as bar,
    ):
        with accelerator.local_main_process_first():  # a hub's base is downloaded once per machine
            base = find_base(cfg.model)
        svd = load_svd(replace(base, unet=checkpoint / "unet") if checkpoint else base, cfg.model)
        encoders = svd.encoders.to(accelerator.device)
        log.info(choose_trainable(svd.unet, cfg.model.train))
        training = prepare(svd.unet, cfg, accelerator, checkpoint)
        model, optimizer, parameters = training.model, training.optimizer, list(training.model.parameters())
        object_fill = measure_object_fill(records, cfg.data) if accelerator.is_main_process else None
        share = Share(
            accelerator.process_index, accelerator.num_processes, cfg.train.batch_size, cfg.train.grad_accum_steps
        )
        batches = iter(load_batches(records, cfg, share.micro_batches(first_sample, last_step - first_step)))
        log.info(f"{len(records)} records, {share.global_batch} orbits a step, {first_step} -> {last_step} steps")

        def validate(step: int) -> None:
            means, videos = validate_orbits(cfg, held_out, svd, training, validation_folder(folder, step))
            trackers.scalars(step, {f"val/{name}": value for name, value in means.items()})
            for name, video in videos.items():
                trackers.video(step, f"val/{name}", video)
            shown = ("loss", "psnr_novel", "input_repeated_psnr_novel")
            log.info(f"step {step}: " + " ".join(f"val/{name} {means[name]:.4g}" for name in shown))

        if forgotten:  # the run was stopped between saving and validating
            validate(first_step)
        for step in range(first_step + 1, last_step + 1):
            started = time.perf_counter()
            lr = lr_at(step - 1, cfg.optim, last_step)
            for group in optimizer.param_groups:
                group["lr"] = lr
            names = []  # of the step's samples
            for _ in range(cfg.train.grad_accum_steps):
                orbits = timed_next(batches, window)
                names += (micro_names := sample_names(orbits))
                with accelerator.accumulate(model):
                    latents, cond, draws = encode(orbits, encoders, cfg.run.seed, cfg.noise, accelerator.device)
                    losses = denoising_loss(model, latents, cond, draws.sigma, draws.noise)
                    stop_if_not_finite("loss", losses, step, micro_names, accelerator)
                    accelerator.backward(losses.mean())  # under DeepSpeed this clips and steps as well
                    window.add(losses.detach(), draws.sigma, cfg.noise.P_mean, cfg.noise.P_std)
                    if accelerator.sync_gradients:
                        grad_norm = accelerator.clip_grad_norm_(parameters, cfg.optim.max_grad_norm)
                        stop_if_not_finite("gradient norm", torch.as_tensor(grad_norm), step, names, accelerator)
                    optimizer.step()
                    optimizer.zero_grad()
            training.ema.update(ema_decay_at(step - 1, cfg.train.ema_decay))
            window.end_step(float(grad_norm), time.perf_counter() - started)
            bar.update()

            stopping = any_rank(accelerator, stop.pending())
            if due(step, cfg.train.log_every_steps) or step == last_step:
                report(step, lr, window.gathered(accelerator), trackers, bar, accelerator)
                window.clear()
            if due(step, cfg.train.save_every_steps) or step == last_step or stopping:
                samples = first_sample + (step - first_step) * share.global_batch
                meta = {"step": step, "samples": samples, "window": window.gathered(accelerator).to_json()}
                meta |= {"config": to_json(cfg), "object_fill": object_fill}
                path = save_checkpoint(folder, meta, training)
                if accelerator.is_main_process:
                    prune(folder, cfg.train)
                log.info(f"saved {path}")
            if stopping:
                log.info(f"stopped at step {step} as requested; the same command goes on from there")
                return
            if validation_due(step, cfg):
                validate(step)
    log.info(f"finished {last_step} steps in {folder}")


def resume_point(checkpoint: Path | None, cfg: TrainConfig, accelerator: Accelerator) -> tuple[int, int, Window]:
    """The steps done, the samples seen, the metrics not yet logged. Raises UserError if config or engine do not fit."""
    if checkpoint is None:
        return 0, 0, Window()
    meta = read_meta(checkpoint)
    changed = changed_keys(meta["config"], cfg)
    check_engine(checkpoint, meta["engine"], accelerator)
    if changed:
        log.info(f"changed since {checkpoint}: {', '.join(changed)}")
    window = Window.from_json(meta["window"]) if accelerator.is_main_process else Window()
    return meta["step"], meta["samples"], window


def validation_folder(folder: Path, step: int) -> Path:
    return folder / "validation" / f"step_{step:07d}"


def validation_due(step: int, cfg: TrainConfig) -> bool:
    every = cfg.validation.every_steps
    return every > 0 and (due(step, every) or step == cfg.train.max_steps)


def validation_forgotten(step: int, cfg: TrainConfig, folder: Path, accelerator: Accelerator) -> bool:
    """Whether the checkpoint of `step` was saved and the run ended before its validation did; all ranks agree."""
    done = (validation_folder(folder, step) / "metrics.json").exists()
    return any_rank(accelerator, step > 0 and validation_due(step, cfg) and accelerator.is_main_process and not done)


def rewind_run(folder: Path, checkpoint: Path | None, step: int, cfg: TrainConfig) -> None:
    """Check that `checkpoint` is whole, remove validations of a run that ended beyond it, and note the config that goes on."""
    if checkpoint:
        verify(checkpoint, read_meta(checkpoint)["files"])
    for path in (folder / "validation").glob("step_*"):
        if path.name > validation_folder(folder, step).name:
            shutil.rmtree(path)
    write_config(cfg, folder)


def prepare(unet: nn.Module, cfg: TrainConfig, accelerator: Accelerator, checkpoint: Path | None) -> Training:
    """The UNet and its optimizer, wrapped by the engine, from the fp32 weights of the base or the state of `checkpoint`."""
    if cfg.model.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if cfg.model.compile:
        compile_blocks(unet)
    fp32 = {name: weight.detach().cpu() for name, weight in unet.named_parameters()}  # a copy only on a GPU
    frozen = {name: fp32[name] for name, weight in unet.named_parameters() if not weight.requires_grad}
    engine_rounds = is_deepspeed(accelerator) and checkpoint is None
    trained = {name: fp32[name].clone() for name in fp32.keys() - frozen.keys()} if engine_rounds else {}
    del fp32
    optimizer = make_optimizer([weight for weight in unet.parameters() if weight.requires_grad], cfg.optim)
    model, optimizer = accelerator.prepare(unet.train(), optimizer)
    if is_deepspeed(accelerator):
        in_force = (
            model.train_micro_batch_size_per_gpu(),
            model.gradient_accumulation_steps(),
            model.gradient_clipping(),
        )
        assert in_force == (cfg.train.batch_size, cfg.train.grad_accum_steps, cfg.optim.max_grad_norm), in_force
    if engine_rounds:
        restore_masters(unet, trained, accelerator)
    write_unet = partial(save_unet, unet, cfg.model.added_time_ids)
    ema = Ema(master_parts(unet, optimizer))
    training = Training(accelerator, unet, model, optimizer, ema, frozen, write_unet)
    if checkpoint:
        load_checkpoint(checkpoint, training)
        set_hyperparameters(training, cfg.optim)  # the YAML's, not the checkpoint's
        log.info(f"resumed from {checkpoint}")
    return training


def make_optimizer(parameters: list[nn.Parameter], optim: OptimSettings) -> torch.optim.Optimizer:
    if optim.name == "sgd":
        return torch.optim.SGD(parameters, **hyperparameters(optim))
    return torch.optim.AdamW(parameters, **hyperparameters(optim))


def hyperparameters(optim: OptimSettings) -> dict:
    common = {"lr": optim.learning_rate, "weight_decay": optim.weight_decay, "fused": True}
    return common | ({"betas": optim.betas} if optim.name == "adamw" else {})


def set_hyperparameters(training: Training, optim: OptimSettings) -> None:
    for group in training.optimizer.param_groups:
        group.update(hyperparameters(optim))
    if is_deepspeed(training.accelerator):
        training.optimizer.optimizer.clip_grad = optim.max_grad_norm


def load_batches(records: Records, cfg: TrainConfig, numbers: Iterator[list[int]]) -> DataLoader:
    """This rank's micro-batches. Not `prepare`d: which rank computes which sample is for `Share` to say."""
    views, workers = OrbitViews(records, cfg.data, cfg.run.seed), cfg.data.num_workers
    return DataLoader(
        views, batch_sampler=numbers, num_workers=workers, collate_fn=collate, worker_init_fn=ignore_signals
    )


def timed_next(batches: Iterator[OrbitBatch], window: Window) -> OrbitBatch:
    started = time.perf_counter()
    orbits = next(batches)
    window.wait_seconds += time.perf_counter() - started
    return orbits


def encode(
    orbits: OrbitBatch, encoders: Encoders, seed: int, noise: NoiseSettings, device: torch.device
) -> tuple[Tensor, Conditioning, Draws]:
    """Pixels -> scaled latents (B F 4 h w), their conditioning with its dropout, and the samples' random numbers."""
    pixels = orbits.pixels.to(device)  # B F 3 H W
    latents = encoders.latents(pixels)
    draws = draw(seed, orbits.n, noise, latents.shape[1:], pixels.shape[2:]).to(device)
    elevation_deg = orbits.elevation_deg.to(device)
    cond = encoders.condition(pixels[:, 0], elevation_deg, draws.noise_aug_strength, draws.cond_noise)
    return latents, drop_conditions(cond, draws.dropped), draws


def sample_names(orbits: OrbitBatch) -> list[str]:
    return [f"sample {n} ({place})" for n, place in zip(orbits.n, orbits.places)]


def stop_if_not_finite(what: str, values: Tensor, step: int, names: list[str], accelerator: Accelerator) -> None:
    """`values`: one per sample in `names`, or one for all. Agreed on by all ranks, before the update.

    Raises UserError, on every rank, with the samples and records of all ranks that are behind it.
    """
    bad = (~values.isfinite()).expand(len(names)).tolist()
    if any_rank(accelerator, any(bad)):
        suspects = gather_object([name for name, is_bad in zip(names, bad) if is_bad])
        raise UserError(f"step {step}: {what} is not finite, the weights were not changed: {', '.join(suspects)}")


def report(step: int, lr: float, window: Window, trackers: Trackers, bar: tqdm, accelerator: Accelerator) -> None:
    means = window.means() | {"lr": lr, "peak_memory_gib": peak_memory_gib(accelerator.device)}
    trackers.scalars(step, {f"train/{name}": value for name, value in means.items()})
    bar.set_postfix(loss=f"{means['loss']:.3f}", orbits_per_s=f"{means['orbits_per_s']:.2f}", refresh=False)
    if bar.disable:
        left = (bar.total - step) * window.seconds / len(window.grad_norms)
        numbers = " ".join(f"{name} {means[name]:.4g}" for name in ("loss", "grad_norm", "lr", "orbits_per_s"))
        log.info(f"step {step}/{bar.total}: {numbers}, {left / 60:.1f} min left")
