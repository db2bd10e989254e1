"""The keys of every command but those that render or import. Each has a type, limits, a unit and a line of help.

docs/configuration.md is written from these texts: `python main.py configuration`.
"""

import warnings
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from utils.config import Section, dotted_keys, key
from utils.urls import OptionalPlace, Place

AddedTimeId = Literal["fps_id", "motion_bucket_id", "noise_aug_strength", "elevation_deg"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Size = Annotated[int, Field(ge=8, le=4096, multiple_of=8)]
MAX_STEPS = 9_999_999  # seven digits, as in the names of checkpoints
# The views of an orbit are in memory together: so many pixels take 1.3 GiB as RGBA, in each process that loads them.
MAX_ORBIT_PIXELS = 21 * 4096**2
TRAINED_ELEVATIONS_DEG = (-5.0, 30.0)  # of the paper's data
LOCAL_CACHE = "~/.cache/svd_mv"
MAX_CHUNK = 1024  # views, or orbits, that are computed at a time: beyond any GPU's memory


def _a_share_or_a_number(amount: float) -> float:
    if amount > 1 and amount != int(amount):
        raise ValueError("must be a share below 1, or a whole number")
    return amount


HeldOutPart = Annotated[float, Field(gt=0, le=1_000_000_000), AfterValidator(_a_share_or_a_number)]


class RunSettings(Section):
    name: str = key(..., "name of the run: its folder is run.dir/run.name", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    dir: str = key("runs", "the folder that holds the runs", "folder")
    seed: Seed = key(0, "every random number of sample n follows from (seed, n)")
    tracker: Literal["wandb", "tensorboard", "none"] = key("none", "where metrics.jsonl and videos go as well")
    project: str = key("svd-mv", "name of the project in wandb")
    resume: Literal["auto", "never", "must"] = key(
        "auto",
        "auto: go on from the newest checkpoint if there is one; never: fail if there is one; must: fail if there is none",
    )
    allow_changed: tuple[str, ...] = key(
        (), "keys of model and noise, and run.seed, that may differ from the checkpoint's on resuming"
    )


class DataSettings(Section):
    root: Place = key(..., "the folder that image_path is relative to; links in it are followed", "folder or address")
    meta: Place = key(..., "svd_meta.jsonl of the orbits to train on", "file or address")
    num_frames: int = key(
        21, "views of a circle; an orbit in the data has this many or a multiple", "views", ge=2, le=1000
    )
    size_px: Size = key(576, "side of the square views; SVD takes multiples of 64", "pixels")
    background: Literal["white", "random"] = key("white", "behind transparent views; random: a colour per sample")
    object_fill: Annotated[float, Field(ge=0.1, le=1)] | None = key(
        None,
        "crop all views of an orbit to one square of which the object fills this fraction; null: do not crop",
        "fraction",
    )
    num_workers: int = key(4, "processes that load data, for each training process", "processes", ge=0, le=256)
    cache: OptionalPlace = key(
        None,
        "what `main.py cache` wrote for these data and this model: views are not encoded in the step",
        "folder or address",
    )
    local_cache: str = key(LOCAL_CACHE, "where copies are kept of what is read from an address", "folder")
    local_cache_gib: float = key(
        0,
        "size of the copies of images, archives and latents; a jsonl is always kept, and does not count",
        "GiB",
        ge=0,
        le=1_000_000,
    )


class ModelSettings(Section):
    base: str = key(..., "the model to start from; a folder has the diffusers SVD layout", "folder or hub id")
    revision: str | None = key(None, "revision of the base on the hub")
    variant: str | None = key(None, "variant of the base's weight files, such as fp16")
    added_time_ids: tuple[AddedTimeId, ...] = key(
        ("fps_id", "elevation_deg", "noise_aug_strength"),
        "the numbers that the UNet is told beside the image, in this order",
    )
    train: Literal["all", "temporal", "spatial", "attention", "lora"] = key(
        "all", "which modules of the UNet are trained; attention: its attention layers; lora: an adapter"
    )
    lora_rank: int = key(64, "rank of the adapter", ge=1, le=4096)
    lora_alpha: Annotated[float, Field(gt=0)] | None = key(
        None, "the adapter's output is multiplied by lora_alpha / lora_rank; null: by 1"
    )
    lora_targets: tuple[str, ...] = key(
        ("to_q", "to_k", "to_v", "to_out.0"),
        "linear layers with an adapter, by the end of their names",
        min_length=1,
    )
    gradient_checkpointing: bool = key(
        False,
        "compute every block of the UNet again in the backward pass: a seventh of the activations' memory, a third more work",
    )
    compile: bool = key(False, "apply torch.compile to every transformer block")
    encoder_dtype: Literal["fp32", "bf16", "fp16"] = key(
        "fp32", "what CLIP and the VAE's encoder compute in while training; bf16 is faster on a GPU, fp16 may overflow"
    )
    encode_chunk: int = key(7, "views that the VAE encodes at a time", "views", ge=1, le=MAX_CHUNK)

    @field_validator("added_time_ids")
    @classmethod
    def _ids_differ(cls, ids):
        if not ids or len(set(ids)) != len(ids):
            raise ValueError("must name at least one id, each once")
        return ids


class NoiseSettings(Section):
    P_mean: float = key(1.0, "mean of ln sigma (1.0 at 576 px, 0.7 at 320 px and below)")
    P_std: float = key(1.6, "standard deviation of ln sigma", gt=0)
    cond_P_mean: float = key(-3.0, "mean of ln noise_aug_strength, the noise added to the input view")
    cond_P_std: float = key(0.5, "standard deviation of ln noise_aug_strength", ge=0)
    cond_dropout: float = key(0.1, "probability that a sample's image conditions are zeroed", "0 to 1", ge=0, le=1)


class OptimSettings(Section):
    name: Literal["adamw", "adamw_8bit", "sgd"] = key(
        "adamw", "the optimizer; adamw_8bit is bitsandbytes', on a GPU only; sgd is for tests"
    )
    learning_rate: float = key(1e-5, "learning rate after the warm-up", gt=0)
    schedule: Literal["constant", "cosine", "linear"] = key("constant", "after the warm-up; cosine and linear end at 0")
    warmup_steps: int = key(0, "steps over which the learning rate rises from 0", "steps", ge=0, le=MAX_STEPS)
    betas: tuple[Fraction, Fraction] = key((0.9, 0.999), "AdamW's betas; sgd ignores them")
    weight_decay: float = key(0.01, "weight decay of all but biases and norms: decoupled for adamw, L2 for sgd", ge=0)
    max_grad_norm: float = key(1.0, "the gradient is scaled down to this norm where it is larger", gt=0)


class TrainSettings(Section):
    max_steps: int = key(..., "length of the run", "optimizer steps", ge=1, le=MAX_STEPS)
    batch_size: int = key(1, "orbits in a micro-step of one process", "orbits", ge=1, le=MAX_CHUNK)
    grad_accum_steps: int = key(1, "micro-steps that make one optimizer step", "micro-steps", ge=1, le=10_000)
    save_every_steps: int = key(
        500, "save a checkpoint every so many steps, and at the end; 0: only at the end", "steps", ge=0, le=MAX_STEPS
    )
    log_every_steps: int = key(10, "log every so many steps", "steps", ge=1, le=MAX_STEPS)
    keep_last: int = key(3, "how many of the newest checkpoints are kept", "checkpoints", ge=1, le=MAX_STEPS)
    keep_every_steps: int = key(0, "keep those at multiples of this for good; 0: none", "steps", ge=0, le=MAX_STEPS)
    ema_decay: float = key(
        0.9999,
        "decay of the EMA; after t updates at most (1 + t) / (10 + t), so 0.9999 holds from 89,990 on",
        ge=0,
        lt=1,
    )
    ema_warmup: bool = key(
        True, "let the decay rise as above; false: all updates have ema_decay, so a short run stays near its base"
    )
    ema_device: Literal["same", "cpu"] = key(
        "same", "where the EMA is kept: same: beside the weights; cpu: in the CPU's memory, for some time a step"
    )


class SamplingSettings(Section):
    """How an orbit is sampled. Validation, sample, evaluate and demo share these keys."""

    num_inference_steps: int = key(25, "Euler steps to sample an orbit", "steps", ge=2, le=1000)
    guidance: Literal["orbit", "linear", "constant"] = key(
        "orbit", "orbit: highest for the view from behind; linear: rises along the views; constant: guidance_max"
    )
    guidance_min: float = key(1.0, "lowest guidance, that of the input view", ge=0)
    guidance_max: float = key(2.5, "highest guidance; up to 1 there is no guidance", ge=0)
    noise_aug_strength: float = key(0.02, "strength of the noise that is added to the input view", ge=0)
    decode_chunk: int = key(
        7, "views that the VAE decodes at a time; changes the result a little", "views", ge=1, le=MAX_CHUNK
    )

    @model_validator(mode="after")
    def _guidance_in_order(self):
        if self.guidance != "constant" and self.guidance_min > self.guidance_max:
            raise ValueError(f"guidance_min {self.guidance_min} is above guidance_max {self.guidance_max}")
        return self


class ValidationSettings(SamplingSettings):
    every_steps: int = key(500, "validate every so many steps, and at the end; 0: never", "steps", ge=0, le=MAX_STEPS)
    meta: Place = key(..., "svd_meta.jsonl of held-out orbits", "file or address")
    num_records: int = key(4, "how many of them are used, from the first", "records", ge=1, le=1_000_000)
    num_training_records: int = key(
        0, "how many training orbits are measured as well, from the first of data.meta", "records", ge=0, le=1_000_000
    )
    before: bool = key(False, "validate before the first step as well, unless every_steps is 0")


class SourceSettings(Section):
    """Which trained weights are used. `checkpoint` may be the first word of the command line, without `checkpoint=`."""

    checkpoint: str = key(..., "a run (its newest checkpoint), a checkpoint, or an exported model", "folder")
    weights: Literal["ema", "raw"] = key("ema", "ema: their average; raw: the weights as trained")
    base: str | None = key(
        None, "where VAE, CLIP and scheduler are; null: where the checkpoint says", "folder or hub id"
    )


class FramingSettings(Section):
    """How an image of an object becomes an input view, and the cameras of its orbit. Sample and demo share these keys."""

    size_px: Size | None = key(None, "side of the views; null: as trained", "pixels")
    object_fill: Annotated[float, Field(ge=0.1, le=1)] | None = key(
        None,
        "the object is recentred to fill this fraction of the frame; null: as measured on the training data",
        "fraction",
    )
    remove_background: bool = key(False, "cut the object out of opaque images with rembg")
    fov_deg: float = key(33.8, "field of view of the cameras in transforms.json", "degrees", gt=0, lt=180)
    distance: Annotated[float, Field(gt=0)] | None = key(
        None, "distance of these cameras; null: a sphere of radius 0.5 fills 90 % of the frame", "object diameters"
    )


class SampleSettings(SourceSettings, SamplingSettings, FramingSettings):
    image: str = key(..., "an image, a folder of images, or a jsonl that lists images", "file or folder")
    elevation_deg: Annotated[float, Field(ge=-90, le=90)] | None = key(
        None, "how far above the horizon the camera was; a line of a jsonl has its own", "degrees, -90 to 90"
    )
    root: str | None = key(None, "the folder that paths in a jsonl are relative to; null: the jsonl's own", "folder")
    out: str = key(..., "where the views go: OUT/IMAGE/seed_SEED/", "folder")
    seeds: tuple[Seed, ...] = key((0,), "each gives an orbit of every image", min_length=1, max_length=1000)
    batch_size: int = key(1, "orbits sampled at a time", "orbits", ge=1, le=MAX_CHUNK)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds):
        if len(set(seeds)) != len(seeds):
            raise ValueError("must name each seed once")
        return seeds


class DemoSettings(SourceSettings, SamplingSettings, FramingSettings):
    """What the page starts with. Whoever uses it may choose other values of elevation, seed, steps and guidance."""

    elevation_deg: Annotated[float, Field(ge=-90, le=90)] = key(
        10.0, "how far above the horizon the camera was", "degrees, -90 to 90"
    )
    seed: Seed = key(0, "seed of the noise that sampling starts from")
    host: str = key(
        "127.0.0.1", "the address to listen on. Another one lets other machines in: there is no password", min_length=1
    )
    port: int = key(7860, "the port to listen on; 0: any that is free", ge=0, le=65535)


MetricName = Literal["psnr", "ssim", "mse", "lpips", "clip"]


class EvaluateSettings(SourceSettings, SamplingSettings):
    meta: Place = key(..., "svd_meta.jsonl of the orbits to measure on", "file or address")
    root: OptionalPlace = key(
        None, "the folder that image_path is relative to; null: the checkpoint's data.root", "folder or address"
    )
    out: str = key(..., "where numbers, videos and page go; an interrupted evaluation goes on there", "folder")
    protocol: str | None = key(
        None, "a file in evaluate_config/, without .yaml: the page compares with numbers published under its settings"
    )
    objects: str | None = key(None, "the record ids to measure on, one a line; null: num_records of them", "file")
    num_records: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = key(
        None, "how many records, those whose ids have the lowest SHA-256; null: all", "records"
    )
    input_view: int = key(0, "number of the view that is the input", "", ge=0, le=999)
    elevations_deg: tuple[float, float] | None = key(
        None, "lowest and highest elevation, beyond which a record is refused; null: any", "degrees"
    )
    size_px: Size | None = key(None, "side of the views; null: as trained", "pixels")
    views: Literal["novel", "all"] = key("novel", "what the headline numbers count; novel: not the input view")
    seed: Seed = key(0, "seed of the noise that sampling starts from")
    metrics: tuple[MetricName, ...] = key(("psnr", "ssim", "mse", "lpips", "clip"), "what to measure", min_length=1)
    lpips_net: Literal["alex", "vgg", "squeeze"] = key("alex", "network of LPIPS")
    clip_model: str = key("openai/clip-vit-base-patch32", "CLIP model of the CLIP similarity", "hub id or folder")
    video_px: int = key(192, "side of the views in the videos, and at most 384 on the page", "pixels", ge=16, le=2048)


class ExportSettings(SourceSettings):
    out: str = key(..., "the new folder", "folder")
    metrics: str | None = key(None, "metrics.json of an evaluation, for the model card; null: none", "file")


with warnings.catch_warnings():
    # pydantic's own `json` is its deprecated name of `model_dump_json`.
    warnings.filterwarnings("ignore", 'Field name "json"')

    class CheckSettings(Section):
        """What `check` predicts and measures; training does not look at it."""

        launch_file: str | None = key(
            None, "the launch file to predict for, where check is not itself launched; null: one_gpu.yaml", "file"
        )
        num_processes: Annotated[int, Field(ge=1, le=1_000_000)] | None = key(
            None, "processes to predict for; null: the launch's", "processes"
        )
        measure_steps: int = key(
            0, "then measure so many steps, with random weights and random orbits; 0: do not", "steps", ge=0, le=1000
        )
        peak_tflops: Annotated[float, Field(gt=0)] | None = key(
            None, "what the GPU can compute in bf16; null: as known of common ones", "TFLOP/s"
        )
        json: str | None = key(None, "where all the numbers are written as well; null: nowhere", "file")
        data: bool = key(False, "look at every record and image, in data.num_workers processes, and list all problems")
        report: str | None = key(
            None, "where problems.txt and sheets of orbits are written; null: problems are only printed", "folder"
        )
        write_clean: str | None = key(
            None, "where the lines of data.meta without a problem are written, as they are; null: nowhere", "file"
        )

        @model_validator(mode="after")
        def _they_follow_from_the_data(self):
            if not self.data and (self.report or self.write_clean):
                raise ValueError("report and write_clean need check.data=true")
            return self


class TrainConfig(Section):
    run: RunSettings
    data: DataSettings
    model: ModelSettings
    noise: NoiseSettings = NoiseSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings
    validation: ValidationSettings
    check: CheckSettings = Field(CheckSettings(), exclude=True)  # is no part of the run

    @model_validator(mode="after")
    def _allowed_keys_exist(self):
        allowed = {key for key in dotted_keys(TrainConfig) if key.split(".")[0] in ("model", "noise")} | {"run.seed"}
        unknown = [key for key in self.run.allow_changed if key not in allowed]
        if unknown:
            raise ValueError(f"run.allow_changed: no key of model, noise or run.seed is called {', '.join(unknown)}")
        return self


class CacheSettings(Section):
    out: str = key(..., "where the latents go; an interrupted encoding goes on there", "folder")
    dtype: Literal["fp16", "fp32"] = key("fp16", "how latents and embeddings are stored")
    num_backgrounds: int = key(
        4, "colours behind every record's views, where data.background is random", "colours", ge=1, le=64
    )
    orbits_per_shard: int = key(128, "records in one file", "records", ge=1, le=10_000)


class CacheConfig(TrainConfig):
    cache: CacheSettings


TINY_BASE_HELD_OUT = 24  # objects of the assets, of the toys and of the drawn toys, that nothing is trained on


class TinyBaseSettings(Section):
    assets: str = key(..., "3D assets to pretrain on, beside toys of our own", "folder")
    hdris: str | None = key(None, "environment maps, for every other light; null: skies and lamps made by us", "folder")
    num_toys: int = key(300, "toys of random shapes and colours", "objects", ge=1, le=10_000)
    num_drawn_toys: int = key(
        2500, "more toys, drawn once each, in a light of its own, by the ray tracer of dummy_objaverse", "objects", ge=0
    )
    num_lights: int = key(
        2, "how often each object is rendered, each time in another light, from another elevation", ge=1, le=1000
    )
    num_processes: int = key(2, "objects rendered or drawn at a time", "processes", ge=1, le=1024)
    vae_steps: int = key(..., "steps of the VAE", "steps", ge=1, le=MAX_STEPS)
    image_encoder_steps: int = key(..., "steps of the image encoder", "steps", ge=1, le=MAX_STEPS)
    work: str = key(..., "where toys, lists and what is half done lie", "folder")
    out: str = key(..., "where the model is written", "folder")
    seed: Seed = key(0, "seed of toys, clips and random weights")
    start: str | None = key(
        None, "a finished base, whose UNet is trained on: its encoders stay as they are; null: all begin anew", "folder"
    )

    @model_validator(mode="after")
    def _some_drawn_toys_to_train_on(self):
        if 0 < self.num_drawn_toys <= TINY_BASE_HELD_OUT:
            raise ValueError(f"num_drawn_toys must be 0, or more than the {TINY_BASE_HELD_OUT} that are held out")
        return self


class TinyBaseConfig(TrainConfig):
    """The training is the UNet's, which `model.base`, `data` and so on belong to; tiny_base writes them first."""

    tiny_base: TinyBaseSettings


class SampleConfig(Section):
    sample: SampleSettings


class DemoConfig(Section):
    demo: DemoSettings


class EvaluateConfig(Section):
    evaluate: EvaluateSettings


class ExportConfig(Section):
    export: ExportSettings


class ConfigurationSettings(Section):
    out: str = key("docs/configuration.md", "the page to write", "file")


class ConfigurationConfig(Section):
    configuration: ConfigurationSettings = ConfigurationSettings()
