"""What is trained: the UNet, its optimizer and its average, as the engine of the launch has wrapped them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from models.checkpointing import checkpoint_blocks
from models.lora import sha256_of_weights
from models.svd import compile_blocks
from training.ema import Ema
from training.masters import is_deepspeed, master_parts, restore_masters
from training.optimizer import make_optimizer
from utils.schemas import ModelSettings, OptimSettings, TrainSettings


@dataclass(frozen=True)
class TrainState:
    """What is trained, and what of it a checkpoint keeps."""

    accelerator: Accelerator
    unet: nn.Module  # inside `model`
    model: nn.Module  # as prepared: the one to call
    optimizer: torch.optim.Optimizer
    ema: Ema
    frozen: dict[str, Tensor]  # the UNet's untrained weights, fp32
    settings: ModelSettings

    @cached_property
    def frozen_sha256(self) -> str:
        return sha256_of_weights(self.frozen)

    def clip(self, max_grad_norm: float) -> Tensor:
        """Clip the gradient of all ranks, and return the norm it had. DeepSpeed has clipped in backward: it only says the norm."""
        if is_deepspeed(self.accelerator):
            norm = self.model.get_global_grad_norm()
            return norm if isinstance(norm, Tensor) else torch.tensor(norm, dtype=torch.float64)
        return self.accelerator.clip_grad_norm_(self.model.parameters(), max_grad_norm)


def prepare(
    unet: nn.Module, model: ModelSettings, optim: OptimSettings, train: TrainSettings, accelerator: Accelerator
) -> TrainState:
    """Wrap the UNet and a fresh optimizer for the engine. The masters are the UNet's fp32 weights, under every engine."""
    if model.gradient_checkpointing:
        checkpoint_blocks(unet)
    if model.compile:
        compile_blocks(unet)
    # The weights as they were loaded: pages of their file, which all ranks of a machine share. No engine writes to them.
    fp32 = {name: weight.detach() for name, weight in unet.named_parameters()}
    frozen = {name: fp32[name] for name, weight in unet.named_parameters() if not weight.requires_grad}
    deepspeed = is_deepspeed(accelerator)
    trained = {name: fp32[name] for name in fp32.keys() - frozen.keys()} if deepspeed else {}
    del fp32
    unet.to(accelerator.device)  # weight by weight, before an engine rounds what would be a second copy in host memory
    if accelerator.device.type == "cpu":
        # A CPU's kernels round by where in memory a weight begins, which in a file is anywhere: a resumed run would differ.
        for weight in unet.parameters():
            weight.data = weight.data.clone()
    optimizer = make_optimizer(unet, optim, accelerator)
    wrapped, optimizer = accelerator.prepare(unet.train(), optimizer)
    if deepspeed:
        _check_settings_in_force(wrapped, accelerator)
        restore_masters(unet, trained, accelerator)
    ema = Ema(master_parts(unet, optimizer), on_host=train.ema_device == "cpu")
    return TrainState(accelerator, unet, wrapped, optimizer, ema, frozen, model)


def _check_settings_in_force(engine: nn.Module, accelerator: Accelerator) -> None:
    asked = accelerator.state.deepspeed_plugin.deepspeed_config
    for name, value in {
        "train_micro_batch_size_per_gpu": engine.train_micro_batch_size_per_gpu(),
        "gradient_accumulation_steps": engine.gradient_accumulation_steps(),
        "gradient_clipping": engine.gradient_clipping(),
    }.items():
        assert value == asked[name], (name, value, asked[name])
