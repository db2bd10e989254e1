"""The parts of SVD from their configs alone, without trained weights: to count with, and to measure a machine with."""

from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from models.encoders import ENCODER_DTYPES, Encoders
from models.svd import Base, as_user_error, new_linear_1
from utils.schemas import ModelSettings


def blank_svd(base: Base, model: ModelSettings) -> tuple[UNetSpatioTemporalConditionModel, Encoders]:
    """Return the UNet and encoders that `load_svd` would give, with the random weights that their classes begin with.

    They are made on torch's default device, and without data under FakeTensorMode. Raises UserError.
    """
    folder = base.rest
    unet = _from_config(UNetSpatioTemporalConditionModel, base.unet)
    new_linear_1(unet, len(model.added_time_ids))
    vae = _from_config(AutoencoderKLTemporalDecoder, folder / "vae")
    with as_user_error(folder / "image_encoder"):
        image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig.from_pretrained(folder / "image_encoder"))
    for frozen in (vae, image_encoder):
        frozen.requires_grad_(False).eval()
    encoders = Encoders(vae, image_encoder, model.added_time_ids, model.encode_chunk)
    return unet, encoders.computing_in(ENCODER_DTYPES[model.encoder_dtype])


def _from_config(cls, folder) -> nn.Module:
    with as_user_error(folder):
        return cls.from_config(cls.load_config(folder))
