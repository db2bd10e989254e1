"""The optimizer, which of the weights decay in it, and what the YAML says of it."""

import logging

import torch
from accelerate import Accelerator
from torch import nn

from training.masters import is_deepspeed
from utils.errors import UserError
from utils.schemas import OptimSettings

log = logging.getLogger("svd_mv")
NUM_GROUPS = 2
EIGHT_BITS_ON_HOST = "optim.name=adamw_8bit cannot step in the CPU's memory, where the launch file puts it: use adamw"
REPLACED = {"lr": float, "weight_decay": float, "fused": bool, "betas": tuple}  # what `hyperparameters` may name


def make_optimizer(unet: nn.Module, optim: OptimSettings, accelerator: Accelerator) -> torch.optim.Optimizer:
    """Return a fresh optimizer of the UNet's trained weights, in the two groups of `decay_of_groups`.

    Matrices and kernels (two dimensions and more) decay. What has one dimension does not: biases, the scales of norms, and
    the factors that mix space and time, which decay would draw to a value that means something else than "small".
    """
    trained = [weight for weight in unet.parameters() if weight.requires_grad]
    weights = ([weight for weight in trained if weight.ndim > 1], [weight for weight in trained if weight.ndim <= 1])
    groups = [{"params": list_, "weight_decay": decay} for list_, decay in zip(weights, decay_of_groups(optim))]
    if optim.name == "adamw_8bit":
        return _adamw_8bit(groups, optim, accelerator)
    kind = torch.optim.SGD if optim.name == "sgd" else torch.optim.AdamW
    return kind(groups, **hyperparameters(optim))


def decay_of_groups(optim: OptimSettings) -> tuple[float, float]:
    return (optim.weight_decay, 0.0)


def hyperparameters(optim: OptimSettings) -> dict:
    """Return what holds for both groups."""
    settings: dict = {"lr": optim.learning_rate}
    if optim.name != "sgd":
        # A new tuple for each group, as accelerate makes one: pickle writes a shared one only once, and the same state would
        # be saved in other bytes after resuming.
        settings["betas"] = (*optim.betas,)
    if optim.name != "adamw_8bit":
        settings["fused"] = True
    return settings


def set_hyperparameters(optimizer: torch.optim.Optimizer, optim: OptimSettings, accelerator: Accelerator) -> None:
    """Give a resumed optimizer the YAML's values in place of the checkpoint's."""
    for group, decay in zip(optimizer.param_groups, decay_of_groups(optim), strict=True):
        group.update(hyperparameters(optim) | {"weight_decay": decay})
    if is_deepspeed(accelerator):
        optimizer.optimizer.clip_grad = optim.max_grad_norm


def _adamw_8bit(groups: list[dict], optim: OptimSettings, accelerator: Accelerator) -> torch.optim.Optimizer:
    """Return bitsandbytes' AdamW, which keeps its two states in a byte a parameter each. Raises UserError where it cannot."""
    if accelerator.device.type != "cuda":
        raise UserError(f"optim.name=adamw_8bit needs an NVIDIA GPU, and this is {accelerator.device.type}: use adamw")
    if is_deepspeed(accelerator):
        if accelerator.state.deepspeed_plugin.offload_optimizer_device not in (None, "none"):
            raise UserError(EIGHT_BITS_ON_HOST)
        if accelerator.num_processes > 1:
            log.info(
                f"ZeRO already divides the optimizer's state by {accelerator.num_processes}: adamw_8bit saves"
                f" {6 / accelerator.num_processes:.2g} bytes a parameter on each GPU, for less exact steps"
            )
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UserError("optim.name=adamw_8bit needs `pip install bitsandbytes`") from None
    return AdamW8bit(groups, **hyperparameters(optim))
