"""What of the UNet is trained."""

from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention import TemporalBasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import AlphaBlender, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import nn

from models.lora import add_adapter
from utils.schemas import ModelSettings

TEMPORAL_MODULES = (TemporalBasicTransformerBlock, TemporalResnetBlock, AlphaBlender)


def choose_trainable(unet: UNetSpatioTemporalConditionModel, model: ModelSettings, seed: int = 0) -> str:
    """Set requires_grad as `model.train` says, and say what was chosen. For `lora` an adapter is added first, drawn from `seed`.

    Modules are chosen by class, since names mislead: time_mixer is temporal. `temporal`: what mixes views; `spatial`: the
    rest; `attention`: the attention layers, spatial and temporal. All of them train `add_embedding` too: without it a new
    id, whose columns start at zero, would stay without effect.
    """
    if model.train == "lora":
        add_adapter(unet, model, seed)
        chosen = {id(weight) for name, weight in unet.named_parameters() if ".lora_" in name}
    else:
        chosen = {id(weight) for weight in _chosen_by_class(unet, model.train)}
    chosen |= {id(weight) for weight in unet.add_embedding.parameters()}
    for weight in unet.parameters():
        weight.requires_grad_(id(weight) in chosen)
    trained, total = count_parameters(unet)
    return f"training {model.train}: {trained / 1e6:,.2f} M of the UNet's {total / 1e6:,.2f} M parameters"


def _chosen_by_class(unet: UNetSpatioTemporalConditionModel, train: str) -> list[nn.Parameter]:
    if train == "all":
        return list(unet.parameters())
    if train == "attention":
        return [weight for module in unet.modules() if isinstance(module, Attention) for weight in module.parameters()]
    modules = [module for module in unet.modules() if isinstance(module, TEMPORAL_MODULES)]
    modules += [
        module.time_pos_embed for module in unet.modules() if isinstance(module, TransformerSpatioTemporalModel)
    ]
    temporal = [weight for module in modules for weight in module.parameters()]
    if train == "temporal":
        return temporal
    rest = {id(weight) for weight in temporal}
    return [weight for weight in unet.parameters() if id(weight) not in rest]


def count_parameters(unet: nn.Module) -> tuple[int, int]:
    """Return how many parameters are trainable, and how many there are."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in unet.parameters()]
    return sum(size for size, trainable in sizes if trainable), sum(size for size, _ in sizes)


def trained_parts(unet: nn.Module) -> dict[str, tuple[int, int]]:
    """(tensors, parameters) that are trained in each of the UNet's blocks that has any."""
    parts: dict[str, tuple[int, int]] = {}
    for name, weight in unet.named_parameters():
        if weight.requires_grad:
            first, second, *_ = name.split(".")
            part = f"{first}.{second}" if second.isdigit() else first
            tensors, parameters = parts.get(part, (0, 0))
            parts[part] = (tensors + 1, parameters + weight.numel())
    return parts
