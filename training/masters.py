"""The masters: the fp32 weights that are trained. An engine may cut them into a part for each rank, beside a bf16 copy."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from models.lora import empty_copy


def is_deepspeed(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def master_parts(unet: nn.Module, optimizer) -> list[Tensor]:
    """Return the tensors that this rank's optimizer updates: the trainable parameters, or ZeRO's flat fp32 parts of them."""
    core = getattr(optimizer, "optimizer", optimizer)
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):  # ZeRO-1 and -2, ZeRO-3
        if hasattr(core, name):
            return list(getattr(core, name))
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def full_weights(unet: nn.Module, accelerator: Accelerator) -> Iterator[tuple[str, Tensor]]:
    """Give the name and the fp32 value of each trained parameter. Collective under ZeRO: every rank runs through all of it."""
    if is_deepspeed(accelerator):
        from deepspeed.utils import safe_get_full_fp32_param
    for name, parameter in unet.named_parameters():
        if parameter.requires_grad:
            yield name, safe_get_full_fp32_param(parameter) if is_deepspeed(accelerator) else parameter.detach()


@torch.no_grad()
def restore_masters(unet: nn.Module, weights: dict[str, Tensor], accelerator: Accelerator) -> None:
    """Give a DeepSpeed engine its fp32 starting weights back: it made its masters from a bf16 copy."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    for name, parameter in unet.named_parameters():
        if parameter.requires_grad and hasattr(parameter, "ds_tensor"):
            # ZeRO-3. Its own safe_set_full_fp32_param fails where the number of ranks does not divide a weight (0.19.8).
            size = parameter.ds_tensor.numel()
            whole = F.pad(weights[name].flatten(), (0, size * accelerator.num_processes - weights[name].numel()))
            safe_set_local_fp32_param(
                parameter, whole[size * accelerator.process_index :][:size].to(accelerator.device)
            )
        elif parameter.requires_grad:
            safe_set_full_fp32_param(parameter, weights[name].to(accelerator.device))


@torch.no_grad()
def lend_unet(unet: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Return the trained UNet as a plain module in the compute type, to sample and validate with. Collective under ZeRO.

    Its forward can run on one rank alone; that of ZeRO-3's engine cannot. It shares memory with the model where the type
    is the same, so it is valid until the weights change. An adapter stays beside its base: merged and rounded to bf16, much
    of a small update would vanish.
    """
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    state = {name: _whole(weight).to(dtype) for name, weight in unet.named_parameters() if not weight.requires_grad}
    state |= {name: weight.to(dtype) for name, weight in full_weights(unet, accelerator)}
    lent = empty_copy(unet)
    lent.load_state_dict(state, assign=True)
    return lent.requires_grad_(False).eval()


def _whole(frozen: Tensor) -> Tensor:
    """Return a frozen weight, gathered if ZeRO-3 has divided it."""
    if not hasattr(frozen, "ds_tensor"):
        return frozen.detach()
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([frozen]):
        return frozen.detach().clone()
