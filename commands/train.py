"""`main.py train`: the training loop. `train` reads top to bottom; `micro_step` is the life of a batch."""

import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from commands.validation import validate_orbits
from dataset.order import Share
from dataset.records import Records
from dataset.views import Orbit, OrbitViews, collate
from models.conditioning import Conditioning, drop_conditions
from models.encoders import Encoders
from models.objective import Draws, denoising_loss, draw
from models.svd import choose_trainable, compile_blocks, find_base, load_svd, save_unet
from utils.checkpoint import (
    changed_keys,
    check_engine,
    find_checkpoint,
    load_checkpoint,
    prune,
    read_meta,
    save_checkpoint,
)
from utils.config import Noise, Optim, TrainConfig, UserError
from utils.ema import Ema
from utils.run import StopRequests, any_rank, make_accelerator, open_run, write_config
from utils.schedule import due, ema_decay_at, lr_at
from utils.tracking import Trackers
from utils.weights import is_deepspeed, master_parts, restore_masters
from utils.window import Window, peak_memory_gib

log = logging.getLogger("svd_mv")


def train(cfg: TrainConfig) -> None:
    accelerator = make_accelerator(cfg.run, cfg.train, cfg.optim)
    folder = open_run(cfg.run, accelerator)
    records = Records(cfg.data.meta, cfg.data.num_frames)
    held_out = Records(cfg.validate_.meta, cfg.data.num_frames)
    checkpoint = find_checkpoint(folder, cfg)
    first_step, first_sample, window = resume_point(checkpoint, cfg, accelerator)
    last_step = cfg.train.max_steps
    if first_step >= last_step and not validation_missing(first_step, cfg, folder):
        log.info(f"{folder} is finished: {first_step} of {last_step} steps; raise train.max_steps to go on")
        return
    write_config(cfg, folder, accelerator)

    trackers = Trackers(folder, first_step, cfg, accelerator.is_main_process)
    with accelerator.local_main_process_first():  # a hub's base is downloaded once per machine
        base = find_base(cfg.model)
    svd = load_svd(replace(base, unet=checkpoint) if checkpoint else base, cfg.model)
    encoders = svd.encoders.to(accelerator.device)
    log.info(choose_trainable(svd.unet, cfg.model.train))
    frozen = {name: weight.detach().cpu() for name, weight in svd.unet.named_parameters() if not weight.requires_grad}
    model, optimizer = prepare(svd.unet, cfg, accelerator, fresh=checkpoint is None)
    ema = Ema(master_parts(accelerator.unwrap_model(model), optimizer))
    if checkpoint:
        load_checkpoint(checkpoint, accelerator, model, optimizer, ema)
        log.info(f"resumed from {checkpoint}")

    share = Share(
        accelerator.process_index, accelerator.num_processes, cfg.train.batch_size, cfg.train.grad_accum_steps
    )
    numbers = share.micro_batches(first_sample, last_step - first_step)
    batches = iter(load_batches(records, cfg, numbers))
    log.info(f"{len(records)} records, {share.global_batch} orbits a step, {first_step} -> {last_step} steps")

    def save(step: int) -> None:
        meta = {
            "step": step,
            "samples": step * share.global_batch,
            "config": cfg.model_dump(mode="json", by_alias=True),
        }
        meta["window"] = window.gathered(accelerator).to_json()
        write = lambda state_dict, path: save_unet(svd.unet, state_dict, cfg.model.added_time_ids, path)  # noqa: E731
        path = save_checkpoint(folder, meta, accelerator, model, optimizer, ema, frozen, write)
        if accelerator.is_main_process:
            prune(folder, cfg.train)
        log.info(f"saved {path}")

    def validate(step: int) -> None:
        means, videos = validate_orbits(cfg, held_out, svd, model, ema, validation_folder(folder, step), accelerator)
        trackers.scalars(step, {f"val/{name}": value for name, value in means.items()})
        for name, video in videos.items():
            trackers.video(step, f"val/{name}", video)
        log.info(
            f"step {step}: "
            + " ".join(f"val/{k} {means[k]:.4g}" for k in ("loss", "psnr_novel", "input_repeated_psnr_novel"))
        )

    if validation_missing(first_step, cfg, folder):  # the run was stopped between saving and validating
        validate(first_step)
    hide_bar = not (accelerator.is_main_process and sys.stderr.isatty())
    with (
        trackers,
        StopRequests(folder) as stop,
        tqdm(total=last_step, initial=first_step, unit="step", disable=hide_bar) as bar,
    ):
        for step in range(first_step + 1, last_step + 1):
            started = time.perf_counter()
            lr = lr_at(step - 1, cfg.optim, last_step)
            for group in optimizer.param_groups:
                group["lr"] = lr
            names = []  # of the step's samples
            for _ in range(cfg.train.grad_accum_steps):
                orbit = timed_next(batches, window)
                names += (micro_names := sample_names(orbit))
                with accelerator.accumulate(model):
                    latents, cond, draws = encode(orbit, encoders, cfg.run.seed, cfg.noise, accelerator.device)
                    losses = denoising_loss(model, latents, cond, draws.sigma, draws.noise)
                    stop_if_not_finite("loss", losses, step, micro_names, accelerator)
                    accelerator.backward(losses.mean())  # under DeepSpeed this clips and steps as well
                    window.add(losses.detach(), draws.sigma, cfg.noise.P_mean, cfg.noise.P_std)
                    if accelerator.sync_gradients:
                        grad_norm = accelerator.clip_grad_norm_(model.parameters(), cfg.optim.max_grad_norm)
                        stop_if_not_finite("gradient norm", torch.as_tensor(grad_norm), step, names, accelerator)
                    optimizer.step()
                    optimizer.zero_grad()
            ema.update(ema_decay_at(step - 1, cfg.train.ema_decay))
            window.end_step(float(grad_norm), time.perf_counter() - started)
            bar.update()

            stopping = any_rank(accelerator, stop.pending())[0]
            if due(step, cfg.train.log_every_steps) or step == last_step:
                report(step, lr, window.gathered(accelerator), trackers, bar, accelerator)
                window.clear()
            if due(step, cfg.train.save_every_steps) or step == last_step or stopping:
                save(step)
            if stopping:
                log.info(f"stopped at step {step} as requested; the same command goes on from there")
                return
            if validation_missing(step, cfg, folder):
                validate(step)
    log.info(f"finished {last_step} steps in {folder}")


def resume_point(checkpoint: Path | None, cfg: TrainConfig, accelerator: Accelerator) -> tuple[int, int, Window]:
    """The steps done, the samples seen, the metrics not yet logged. Raises UserError if config or engine do not fit."""
    if checkpoint is None:
        return 0, 0, Window()
    meta = read_meta(checkpoint)
    changed = changed_keys(meta["config"], cfg)
    check_engine(checkpoint, accelerator)
    if changed:
        log.info(f"changed since {checkpoint}: {', '.join(changed)}")
    window = Window.from_json(meta["window"]) if accelerator.is_main_process else Window()
    return meta["step"], meta["samples"], window


def validation_folder(folder: Path, step: int) -> Path:
    return folder / "validation" / f"step_{step:07d}"


def validation_missing(step: int, cfg: TrainConfig, folder: Path) -> bool:
    wanted = cfg.validate_.every_steps > 0 and (due(step, cfg.validate_.every_steps) or step == cfg.train.max_steps)
    return wanted and step > 0 and not (validation_folder(folder, step) / "metrics.json").exists()


def prepare(
    unet: nn.Module, cfg: TrainConfig, accelerator: Accelerator, fresh: bool
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The UNet and its optimizer, wrapped by the engine; what is trained starts from its fp32 weights under all of them."""
    if cfg.model.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if cfg.model.compile:
        compile_blocks(unet)
    trained = {name: weight for name, weight in unet.named_parameters() if weight.requires_grad}
    engine_rounds = fresh and is_deepspeed(accelerator)
    start = {name: weight.detach().cpu().clone() for name, weight in trained.items()} if engine_rounds else {}
    model, optimizer = accelerator.prepare(unet.train(), make_optimizer(list(trained.values()), cfg.optim))
    if engine_rounds:
        restore_masters(unet, start)
    return model, optimizer


def make_optimizer(parameters: list[nn.Parameter], optim: Optim) -> torch.optim.Optimizer:
    if optim.name == "sgd":
        return torch.optim.SGD(parameters, lr=optim.learning_rate, weight_decay=optim.weight_decay)
    return torch.optim.AdamW(parameters, lr=optim.learning_rate, betas=optim.betas, weight_decay=optim.weight_decay)


def load_batches(records: Records, cfg: TrainConfig, numbers: Iterator[list[int]]) -> DataLoader:
    """This rank's micro-batches. Not `prepare`d: which rank computes which sample is for `Share` to say."""
    views = OrbitViews(records, cfg.data, cfg.run.seed)
    return DataLoader(views, batch_sampler=numbers, num_workers=cfg.data.num_workers, collate_fn=collate)


def timed_next(batches: Iterator[Orbit], window: Window) -> Orbit:
    started = time.perf_counter()
    orbit = next(batches)
    window.wait_seconds += time.perf_counter() - started
    return orbit


def encode(
    orbit: Orbit, encoders: Encoders, seed: int, noise: Noise, device: torch.device
) -> tuple[Tensor, Conditioning, Draws]:
    """Pixels -> scaled latents (B F 4 h w), their conditioning with its dropout, and the samples' random numbers."""
    pixels = orbit.pixels.to(device)  # B F 3 H W
    latents = encoders.latents(pixels)
    draws = draw(seed, orbit.n, noise, latents.shape[1:], pixels.shape[2:]).to(device)
    elevation_deg = orbit.elevation_deg.to(device)
    cond = encoders.condition(pixels[:, 0], elevation_deg, draws.noise_aug_strength, draws.cond_noise)
    return latents, drop_conditions(cond, draws.dropped), draws


def sample_names(orbit: Orbit) -> list[str]:
    return [f"sample {n} ({place})" for n, place in zip(orbit.n, orbit.places)]


def stop_if_not_finite(what: str, values: Tensor, step: int, names: list[str], accelerator: Accelerator) -> None:
    """`values`: one per sample in `names`, or one for all. Agreed on by all ranks, before the update.

    Raises UserError, on every rank, with the samples and records of all ranks that are behind it.
    """
    bad = (~values.isfinite()).expand(len(names)).tolist()
    if any_rank(accelerator, any(bad))[0]:
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
