"""The parts of SVD: finding, loading and saving them in the diffusers layout."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    ConfigMixin,
    EulerDiscreteScheduler,
    UNetSpatioTemporalConditionModel,
)
from diffusers.models.attention import BasicTransformerBlock, TemporalBasicTransformerBlock
from huggingface_hub import save_torch_state_dict, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection
from transformers.utils.logging import disable_progress_bar

from models.conditioning import STOCK_IDS, USUAL_VALUE, remap_added_time_ids
from models.encoders import ENCODER_DTYPES, Encoders
from utils.errors import UserError, first_line, shown
from utils.reading import Saved, read_json
from utils.schemas import ModelSettings

disable_progress_bar()  # transformers draws one for the weights of CLIP, and each process writes it into the log

LAYOUT_FILE = "svd_mv.json"  # beside the UNet's weights; without it a UNet has the stock ids
PARTS = ("unet", "vae", "image_encoder", "scheduler")
CONFIGS = Path(__file__).with_name("svd_xt")  # those of SVD, whose weights are gated
SVD = tuple(f"stabilityai/stable-video-diffusion-img2vid{name}" for name in ("", "-xt", "-xt-1-1"))


class _Layout(Saved):
    added_time_ids: tuple[str, ...]


@dataclass(frozen=True)
class Svd:
    unet: UNetSpatioTemporalConditionModel
    encoders: Encoders
    sigma_range: tuple[float, float]  # the scheduler's sigma_min and sigma_max


@dataclass(frozen=True)
class Base:
    """Where the parts of a model are. A checkpoint holds only UNets; its config names the base that has the other parts."""

    unet: Path  # the UNet's own folder
    rest: Path  # the folder of all other parts
    variant: str | None  # of the weight files in `rest`


def find_parts(model: ModelSettings, config_only: bool = False) -> Base:
    """Find the parts of `model.base`: a folder, or a hub id, which is downloaded unless it is in the cache.

    With `config_only` nothing but the configs is downloaded, which is enough to count with; SVD's own are here. Raises
    UserError that says how to get what is missing.
    """
    folder = Path(model.base)
    if not folder.is_dir():
        folder = CONFIGS if config_only and model.base in SVD else _download(model, config_only)
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise UserError(
            f"model.base: '{model.base}' is not in the diffusers SVD layout: no folder {', '.join(missing)} in it;"
            " download a whole repository, as with `hf download stabilityai/stable-video-diffusion-img2vid-xt`"
        )
    return Base(folder / "unet", folder, model.variant)


def is_hub_id(base: str) -> bool:
    """Return whether a name has the form of a hub repository: ORGANISATION/NAME."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", base)) and not base.startswith(".")


def _download(model: ModelSettings, config_only: bool) -> Path:
    if not is_hub_id(model.base):
        raise UserError(f"model.base: no folder '{model.base}' (and that is no hub id, which reads ORGANISATION/NAME)")
    weights = f"*/*.{model.variant}*.safetensors" if model.variant else "*/*.safetensors"
    wanted = ["*.json", "*/*.json"] + ([] if config_only else [weights])
    unwanted = None if model.variant else ["*.fp16*"]
    try:
        return Path(
            snapshot_download(model.base, revision=model.revision, allow_patterns=wanted, ignore_patterns=unwanted)
        )
    except HFValidationError as error:
        why = f"has a name the hub cannot have: {first_line(error)}"
    except GatedRepoError:
        why = "is gated: accept its licence on its hub page, then log in with `hf auth login` (or set HF_TOKEN)"
    except LocalEntryNotFoundError:
        why = (
            "is not in the cache, and the hub cannot be reached: on a machine with network run"
            f" `hf download {model.base}`, then copy the cache, or the repository as a folder, and set model.base to it"
        )
    except HfHubHTTPError as error:
        why = f"was answered by: {first_line(error)}; it may need `hf auth login`, or the name is not right"
    raise UserError(f"model.base: '{model.base}' is no folder here, and as a hub repository it {why}")


def load_svd(base: Base, model: ModelSettings) -> Svd:
    """Load all parts in fp32, but for what encodes: `model.encoder_dtype`.

    The UNet is remapped to `model.added_time_ids` and alone is trainable. Raises UserError.
    """
    unet = load_unet(base, model)
    scheduler = load_scheduler(base.rest).config
    return Svd(unet, load_encoders(base, model), (scheduler.sigma_min, scheduler.sigma_max))


def load_encoders(base: Base, model: ModelSettings) -> Encoders:
    """Load the frozen VAE and CLIP alone. What encodes is in `model.encoder_dtype`, the decoder in fp32. Raises UserError."""
    folder = base.rest
    vae = load_part(AutoencoderKLTemporalDecoder, folder, "vae", base.variant).requires_grad_(False).eval()
    image_encoder = (
        load_part(CLIPVisionModelWithProjection, folder, "image_encoder", base.variant).requires_grad_(False).eval()
    )
    encoders = Encoders(vae, image_encoder, model.added_time_ids, model.encode_chunk)
    return encoders.computing_in(ENCODER_DTYPES[model.encoder_dtype])


def require_size(unet: UNetSpatioTemporalConditionModel, encoders: Encoders, size_px: int) -> None:
    """Raise UserError for views of a side that is not whole again once VAE and UNet have halved and doubled it."""
    levels = [*unet.config.block_out_channels, *encoders.vae.config.block_out_channels]
    whole = 2 ** (len(levels) - 2)  # each of both has a level more than it halves
    if size_px % whole:
        raise UserError(f"size_px={size_px}: this model takes views whose side is a multiple of {whole} pixels")


def weights_digest(base: Base, part: str) -> str:
    """Return the SHA-256 of the weight files of a part, as they lie on the disk: of vae 0.4 GB, of image_encoder 2.5 GB in fp32."""
    digest = hashlib.sha256()
    for path in sorted((base.rest / part).glob("*.safetensors")):
        variant = path.stem.partition(".")[2].partition("-")[0]  # model.fp16-00001-of-00002.safetensors is of fp16
        if variant == (base.variant or ""):
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def load_scheduler(folder: Path) -> EulerDiscreteScheduler:
    """Load the scheduler of a base. Raises UserError if it is not of SVD's kind."""
    with as_user_error(folder / "scheduler"):
        scheduler = EulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    if scheduler.config.prediction_type != "v_prediction" or not (
        scheduler.config.sigma_min and scheduler.config.sigma_max
    ):
        raise UserError(
            f"{folder}/scheduler: SVD predicts v between sigma_min and sigma_max; this scheduler does not say so"
        )
    return scheduler


def load_unet(base: Base, model: ModelSettings) -> UNetSpatioTemporalConditionModel:
    variant = base.variant if base.unet.parent == base.rest else None  # a UNet of our checkpoints has no variant
    unet = load_part(UNetSpatioTemporalConditionModel, base.unet.parent, base.unet.name, variant)
    set_added_time_ids(unet, read_layout(base.unet, unet.config), model.added_time_ids)
    return unet


def load_part(cls, folder: Path, part: str, variant: str | None) -> nn.Module:
    """Load a part of `folder` in fp32. Raises UserError also if a weight is missing, left over, or of another shape."""
    with as_user_error(folder / part):
        loaded, info = cls.from_pretrained(
            folder,
            subfolder=part,
            variant=variant,
            torch_dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
    wrong = [f"{kind}: {info[kind]}" for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[kind]]
    if wrong:
        raise UserError(f"{folder}/{part}: the weights do not fit its config: {'; '.join(wrong)[:500]}")
    if isinstance(loaded, ConfigMixin):
        loaded.register_to_config(_name_or_path="")  # a path of this machine, which would be saved with the config
    return loaded


@contextmanager
def as_user_error(folder: Path) -> Iterator[None]:
    """Turn what the libraries raise on a damaged folder into a UserError of one line that begins with the folder."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be loaded: {first_line(error)}") from error


def read_layout(unet_folder: Path, config) -> tuple[str, ...]:
    """Return the ids that a saved UNet embeds, in order. Raises UserError if they do not fit its config."""
    path = unet_folder / LAYOUT_FILE
    layout = read_json(path, _Layout).added_time_ids if path.exists() else STOCK_IDS
    if not set(layout) <= USUAL_VALUE.keys():
        raise UserError(f"{path}: added_time_ids must be a list of {', '.join(USUAL_VALUE)}; found {shown(layout)}")
    num_ids = config.projection_class_embeddings_input_dim // config.addition_time_embed_dim
    if len(layout) != num_ids:
        raise UserError(
            f"{unet_folder}: this UNet embeds {num_ids} added time ids, but {path.name} names {len(layout)} (absent: SVD's three);"
            f' write it, for example {{"added_time_ids": ["noise_aug_strength", "elevation_deg"]}}'
        )
    return layout


def set_added_time_ids(unet: UNetSpatioTemporalConditionModel, old: Sequence[str], new: Sequence[str]) -> None:
    """Change which ids `unet` embeds, in place, without changing its output for the usual values of the old ones."""
    if tuple(old) == tuple(new):
        return
    linear = unet.add_embedding.linear_1
    weight, bias = remap_added_time_ids(linear.weight.data, linear.bias.data, old, new, unet.add_time_proj)
    new_linear_1(unet, len(new))
    unet.add_embedding.linear_1.load_state_dict({"weight": weight, "bias": bias})


def new_linear_1(unet: UNetSpatioTemporalConditionModel, num_ids: int) -> None:
    width = num_ids * unet.config.addition_time_embed_dim
    unet.add_embedding.linear_1 = nn.Linear(width, unet.add_embedding.linear_1.out_features)
    unet.register_to_config(projection_class_embeddings_input_dim=width)


def save_unet(
    unet: UNetSpatioTemporalConditionModel, layout: Sequence[str], state_dict: dict[str, Tensor], folder: Path
) -> None:
    """Save `state_dict` as a UNet folder that stock diffusers loads, with the names of its added time ids in it."""
    unet.save_config(folder)
    pattern = "diffusion_pytorch_model{suffix}.safetensors"
    save_torch_state_dict(
        state_dict, folder, filename_pattern=pattern, max_shard_size="10GB", metadata={"format": "pt"}
    )
    save_layout(layout, folder)


def save_layout(layout: Sequence[str], unet_folder: Path) -> None:
    (unet_folder / LAYOUT_FILE).write_text(json.dumps({"added_time_ids": list(layout)}) + "\n")


def compile_blocks(unet: UNetSpatioTemporalConditionModel, backend: str = "inductor") -> None:
    """Compile every transformer block on its own. So each has one small graph, and the weights keep their names."""
    for module in unet.modules():
        if isinstance(module, (BasicTransformerBlock, TemporalBasicTransformerBlock)):
            module.compile(backend=backend)
