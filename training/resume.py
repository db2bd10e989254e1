"""Where a run goes on: from its newest checkpoint or from step 0, once it is sure that the two fit."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from training.checkpoint import (
    LATEST,
    META,
    checkpoints,
    incomplete_checkpoints,
    load_checkpoint,
    read_meta,
    verify,
)
from training.launch import Accelerator, engine, from_first_rank
from training.optimizer import NUM_GROUPS, set_hyperparameters
from training.run_folder import write_config
from training.state import TrainState
from training.step_folders import step_of
from training.validation import validation_done, validation_due, validation_folder, validations
from training.window import Window
from utils.config import Section, to_json
from utils.errors import MAX_VALUE, UserError
from utils.files import open_file, remove, remove_unfinished
from utils.schemas import OptimSettings, RunSettings, TrainConfig

log = logging.getLogger("svd_mv")
# The optimizer's state would not fit other values of these.
FIXED_KEYS = ("optim.name", "model.train", "model.lora_rank", "model.lora_targets", "model.added_time_ids")


@dataclass(frozen=True)
class Resume:
    """Where a run goes on, the same on every rank but for the window."""

    checkpoint: Path | None  # None: from the base's weights
    step: int  # steps done
    samples: int  # samples seen
    window: Window  # all ranks' samples that were not logged yet; only the first rank holds them
    owes_validation: bool  # that of `step` is still to be done: the run ended before it, or begins with one

    def finished(self, max_steps: int) -> bool:
        return self.step >= max_steps and not self.owes_validation


def find_resume(folder: Path, cfg: TrainConfig, records: dict, accelerator: Accelerator) -> Resume:
    """Find where the run in `folder` goes on, and take back what it did beyond that. Collective.

    `records`: Records.description of the training data. Only the first rank looks, since a shared folder may not show
    the same to all. A finished run is left as it is. Raises UserError, on every rank, if there is no going on from its newest
    checkpoint: the config or the launch do not fit it, it is damaged, or `run.resume` says otherwise.
    """
    resume = from_first_rank(accelerator, lambda: _find_resume(folder, cfg, records, accelerator))
    return resume if accelerator.is_main_process else replace(resume, window=Window())


def _find_resume(folder: Path, cfg: TrainConfig, records: dict, accelerator: Accelerator) -> Resume:
    for place in (folder, folder / "checkpoints", *validations(folder)):
        remove_unfinished(place)
    checkpoint = find_checkpoint(folder, cfg.run)
    begins_with_one = cfg.validation.before and cfg.validation.every_steps > 0
    resume = Resume(None, 0, 0, Window(), owes_validation=begins_with_one)
    if checkpoint is not None:
        meta = read_meta(checkpoint)
        step = meta["step"]
        changed = changed_keys(meta["config"], cfg)
        check_engine(checkpoint, meta["engine"], accelerator)
        check_groups(checkpoint, meta["optimizer_groups"])
        if changed:
            log.info(f"changed since {checkpoint}: {', '.join(changed)}")
        if meta["records"] not in (None, records):
            before, now = meta["records"]["count"], records["count"]
            how = "other lines" if before == now else f"{before} records then, {now} now"
            log.warning(f"what data.meta holds has changed since {checkpoint} ({how}): samples come in another order")
        due = step > 0 and validation_due(step, cfg.validation.every_steps, cfg.train.max_steps)
        owes_validation = due and not validation_done(validation_folder(folder, step))
        resume = Resume(checkpoint, step, meta["samples"], Window.from_json(meta["window"]), owes_validation)
    if not resume.finished(cfg.train.max_steps):
        if checkpoint is not None:
            verify(checkpoint, meta["files"])
        _remove_later_validations(folder, resume.step)
        write_config(cfg, folder)
    return resume


def find_checkpoint(folder: Path, run: RunSettings) -> Path | None:
    """Return the checkpoint to go on from, or None to start anew, as `run.resume` says. Raises UserError if they do not fit."""
    found = checkpoints(folder)
    if run.resume == "never" and found:
        raise UserError(f"run.resume=never, but {found[-1]} exists: choose another run.name, or remove it")
    if run.resume == "must" and not found:
        raise UserError(f"run.resume=must, but there is no checkpoint in {folder}/checkpoints")
    for path in incomplete_checkpoints(folder):
        if not found or step_of(path) > step_of(found[-1]):
            log.warning(f"{path} has no {META}, so it is passed over")
    if run.resume == "auto" and not found and (folder / LATEST).exists():
        raise UserError(
            f"{folder} was trained up to {_latest(folder)}, but no checkpoint is left: is its disk there? Bring them back,"
            " choose another run.name, or set run.resume=never to lose what is left and start anew"
        )
    return found[-1] if found else None


def _latest(folder: Path) -> str:
    """Return the name of the newest checkpoint as the run folder has it, for an error; anything may be in that file by now."""
    with open_file(folder / LATEST) as file:
        return file.read(MAX_VALUE).decode(errors="replace").strip() or "some step"


def changed_keys(saved: dict, cfg: Section) -> list[str]:
    """Return the keys whose value differs from the saved config's; a key that is newer than the checkpoint had its default.

    Raises UserError for those that must not differ, or that nobody allowed to.
    """
    changed = [
        f"{section}.{key}"
        for section, keys in to_json(cfg).items()
        for key, value in keys.items()
        if (section != "run" or key == "seed")
        and saved.get(section, {}).get(key, default_of(cfg, section, key)) != value
    ]
    if cfg.model.train != "lora":
        changed = [key for key in changed if not key.startswith("model.lora_")]
    fixed = [key for key in changed if key in FIXED_KEYS]
    if fixed:
        raise UserError(
            f"the checkpoint's optimizer state does not fit other values of {', '.join(fixed)}:"
            " start a new run.name from its weights, with model.base=CHECKPOINT"
        )
    guarded = [key for key in changed if key.split(".")[0] in ("model", "noise", "run")]
    refused = [key for key in guarded if key not in cfg.run.allow_changed]
    if refused:
        raise UserError(
            f"the checkpoint was trained with other values of {', '.join(refused)}:"
            " start a new run.name, or name these keys in run.allow_changed"
        )
    return changed


def default_of(cfg: Section, section: str, key: str) -> object:
    """Return a key's default as JSON has it."""
    default = type(getattr(cfg, section)).model_fields[key].get_default()
    return list(default) if isinstance(default, tuple) else default


def check_engine(checkpoint: Path, saved: dict, accelerator: Accelerator) -> None:
    """Refuse an optimizer state of another engine, or of another number of ZeRO processes, before anything is loaded."""
    now = engine(accelerator)
    precision = saved["mixed_precision"] or now["mixed_precision"]
    if now["type"] == "plain":
        fits = saved["type"] == "plain"
    else:
        fits = saved | {"mixed_precision": precision} == now
    if not fits:
        raise UserError(
            f"{checkpoint} was saved by {saved['num_processes']} process(es) under {_named(saved)}, this is"
            f" {now['num_processes']} under {_named(now)}: launch it as before, or start a new run.name from its weights"
            f" with model.base={checkpoint}"
        )


def _named(engine: dict) -> str:
    precision = {None: "", "no": " in fp32"}.get(engine["mixed_precision"], f" in {engine['mixed_precision']}")
    return engine["type"] + precision


def check_groups(checkpoint: Path, saved: int) -> None:
    """Refuse a checkpoint of the time when biases and norms decayed too: one group, which ZeRO keeps as one flat tensor."""
    if saved != NUM_GROUPS:
        raise UserError(
            f"{checkpoint} was saved by an older version, in which biases and norms had weight decay too; its optimizer state"
            f" does not fit: start a new run.name from its weights with model.base={checkpoint}"
        )


def _remove_later_validations(folder: Path, step: int) -> None:
    for path in validations(folder):
        if step_of(path) > step:
            remove(path)


def restore(state: TrainState, checkpoint: Path, optim: OptimSettings) -> None:
    """Load the checkpoint's optimizer state and average, and give the optimizer the YAML's settings. Raises UserError."""
    load_checkpoint(checkpoint, state)
    set_hyperparameters(state.optimizer, optim, state.accelerator)
    log.info(f"resumed from {checkpoint}")
