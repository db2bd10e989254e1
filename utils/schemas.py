"""Every key of every command: frozen sections, with types, limits, units and a line of help each."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from utils.config import Section, dotted_keys, key

AddedTimeId = Literal["fps_id", "motion_bucket_id", "noise_aug_strength", "elevation_deg"]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class RunSettings(Section):
    name: str = key(..., "the run's folder is run.dir/run.name", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    dir: str = key("runs", "where runs live", "folder")
    seed: int = key(0, "every random number of sample n follows from (seed, n)", ge=0)
    tracker: Literal["wandb", "tensorboard", "none"] = key("none", "where scalars and videos go, beside metrics.jsonl")
    project: str = key("svd-mv", "wandb's project")
    resume: Literal["auto", "never", "must"] = key(
        "auto", "go on from the newest checkpoint: if there is one, never, or fail without one"
    )
    allow_changed: tuple[str, ...] = key(
        (), "keys of model.* and noise.*, and run.seed, that may differ from the checkpoint's"
    )


class DataSettings(Section):
    root: str = key(..., "what image_path is relative to", "folder")
    meta: str = key(..., "svd_meta.jsonl of the training orbits", "file")
    num_frames: int = key(21, "views of one full circle; an orbit holds k times as many", "views", ge=2)
    size_px: int = key(576, "side of the square views", "pixels", ge=8, multiple_of=8)
    background: Literal["white", "random"] = key("white", "what alpha is composited on; random: one colour per sample")
    object_fill: Annotated[float, Field(ge=0.1, le=1)] | None = key(
        None,
        "crop all views of an orbit to one square that the object fills to this fraction; null: no crop",
        "fraction",
    )
    num_workers: int = key(4, "loading processes per training process", "processes", ge=0)


class ModelSettings(Section):
    base: str = key(..., "hub id, or a folder in the diffusers SVD layout")
    revision: str | None = key(None, "hub revision of the base")
    variant: str | None = key(None, "weight files' variant, as fp16")
    added_time_ids: tuple[AddedTimeId, ...] = key(
        ("fps_id", "elevation_deg", "noise_aug_strength"), "the ids the UNet embeds, in this order"
    )
    train: Literal["all", "temporal", "spatial"] = key("all", "which UNet modules are trained")
    gradient_checkpointing: bool = key(False, "recompute activations in backward: less memory, slower")
    compile: bool = key(False, "torch.compile of every transformer block")
    encode_chunk: int = key(7, "views the frozen VAE encodes at a time", "views", ge=1)

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
    cond_dropout: float = key(0.1, "probability that a sample loses both image conditions", "0 to 1", ge=0, le=1)


class OptimSettings(Section):
    name: Literal["adamw", "sgd"] = key("adamw", "optimizer")
    learning_rate: float = key(1e-5, "peak learning rate", gt=0)
    schedule: Literal["constant", "cosine", "linear"] = key("constant", "after the warm-up; cosine and linear end at 0")
    warmup_steps: int = key(0, "linear warm-up", "steps", ge=0)
    betas: tuple[Fraction, Fraction] = key((0.9, 0.999), "AdamW's betas; without effect for sgd")
    weight_decay: float = key(0.01, "decoupled for adamw, L2 for sgd", ge=0)
    max_grad_norm: float = key(1.0, "clip the global gradient norm to this", gt=0)


class TrainSettings(Section):
    max_steps: int = key(..., "length of the run", "optimizer steps", ge=1)
    batch_size: int = key(1, "per process and micro-step", "orbits", ge=1)
    grad_accum_steps: int = key(1, "micro-steps per optimizer step", "micro-steps", ge=1)
    save_every_steps: int = key(500, "checkpoint; always at the end too; 0: only at the end", "steps", ge=0)
    log_every_steps: int = key(10, "a line of metrics", "steps", ge=1)
    keep_last: int = key(3, "newest checkpoints that are kept", "checkpoints", ge=1)
    keep_every_steps: int = key(0, "checkpoints at multiples of this are kept for good; 0: none", "steps", ge=0)
    ema_decay: float = key(0.9999, "of the fp32 average of the trained weights", ge=0, lt=1)


class SamplingSettings(Section):
    """How a video is sampled; shared by validation, sample and evaluate."""

    num_inference_steps: int = key(25, "Euler steps per video", "steps", ge=2)
    guidance: Literal["orbit", "linear", "constant"] = key(
        "orbit", "rising to the view from behind and back; along the frames, as for videos; guidance_max everywhere"
    )
    guidance_min: float = key(1.0, "guidance of the input view", ge=0)
    guidance_max: float = key(2.5, "the highest: of the view from behind, or of the last; up to 1 there is none", ge=0)
    noise_aug_strength: float = key(0.02, "noise on the input view", ge=0)
    decode_chunk: int = key(7, "views the VAE decodes at a time; changes the result a little", "views", ge=1)

    @model_validator(mode="after")
    def _guidance_in_order(self):
        if self.guidance != "constant" and self.guidance_min > self.guidance_max:
            raise ValueError(f"guidance_min {self.guidance_min} is above guidance_max {self.guidance_max}")
        return self


class ValidationSettings(SamplingSettings):
    every_steps: int = key(500, "validate, and at the end; 0: never", "steps", ge=0)
    meta: str = key(..., "svd_meta.jsonl of held-out orbits", "file")
    num_records: int = key(4, "how many of them, from the first", "records", ge=1)


class SourceSettings(Section):
    """Which trained weights; the first word without `=` of the command line is `checkpoint`."""

    checkpoint: str = key(..., "a run (its newest checkpoint), a checkpoint, or an exported model", "folder")
    weights: Literal["ema", "raw"] = key("ema", "of a checkpoint: the average, or the weights as they were trained")
    base: str | None = key(None, "VAE, CLIP and scheduler; null: where the checkpoint says", "folder or hub id")


class SampleSettings(SourceSettings, SamplingSettings):
    image: str = key(..., "an image, a folder of images, or a jsonl of them", "file or folder")
    elevation_deg: Annotated[float, Field(ge=-90, le=90)] | None = key(
        None, "of the camera of the images, above the horizon; a line of a jsonl has its own", "degrees, -90 to 90"
    )
    root: str | None = key(None, "what the paths in a jsonl are relative to; null: the jsonl's folder", "folder")
    out: str = key(..., "where the views go: OUT/IMAGE/seed_SEED/", "folder")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = key((0,), "one video each", min_length=1)
    batch_size: int = key(1, "videos at a time", "videos", ge=1)
    size_px: Annotated[int, Field(ge=8, multiple_of=8)] | None = key(
        None, "side of the views; null: as trained", "pixels"
    )
    object_fill: Annotated[float, Field(ge=0.1, le=1)] | None = key(
        None,
        "share of the frame's side that the object is recentred to; null: the training data's, as measured",
        "fraction",
    )
    remove_background: bool = key(False, "cut the object out of opaque images with rembg")
    fov_deg: float = key(33.8, "of the cameras written to transforms.json", "degrees", gt=0, lt=180)
    distance: Annotated[float, Field(gt=0)] | None = key(
        None, "of these cameras; null: at which a sphere of radius 0.5 fills 90 % of the frame", "object diameters"
    )

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds):
        if len(set(seeds)) != len(seeds):
            raise ValueError("must name each seed once")
        return seeds


MetricName = Literal["psnr", "ssim", "mse", "lpips", "clip"]


class EvaluateSettings(SourceSettings, SamplingSettings):
    meta: str = key(..., "svd_meta.jsonl of the orbits to measure on", "file")
    root: str | None = key(None, "what image_path is relative to; null: the checkpoint's data.root", "folder")
    out: str = key(
        ..., "where numbers, videos and page go; an interrupted evaluation goes on from what is there", "folder"
    )
    protocol: str | None = key(None, "name of a file in evaluate_config/ whose settings are meant, for the page")
    objects: str | None = key(None, "list of record ids to measure on, one a line; null: num_records of them", "file")
    num_records: Annotated[int, Field(ge=1)] | None = key(
        None, "that many, those whose ids have the lowest SHA-256; null: all", "records"
    )
    input_view: int = key(0, "which view of a record is the input", "views", ge=0)
    elevations_deg: tuple[float, float] | None = key(
        None, "lowest and highest elevation; a record outside is refused; null: any", "degrees"
    )
    size_px: Annotated[int, Field(ge=8, multiple_of=8)] | None = key(
        None, "side of the views; null: as trained", "pixels"
    )
    views: Literal["novel", "all"] = key("novel", "which views the headline counts: without the input's, or all")
    seed: int = key(0, "of the noise; each record has its own from it", ge=0)
    metrics: tuple[MetricName, ...] = key(("psnr", "ssim", "mse", "lpips", "clip"), "what to measure", min_length=1)
    lpips_net: Literal["alex", "vgg", "squeeze"] = key("alex", "LPIPS's network")
    clip_model: str = key("openai/clip-vit-base-patch32", "CLIP of the CLIP similarity", "hub id or folder")
    video_px: int = key(192, "side of the views in the page's videos", "pixels", ge=16)


class ExportSettings(SourceSettings):
    out: str = key(..., "the new folder", "folder")
    metrics: str | None = key(None, "an evaluation's metrics.json, for the model card", "file")


class TrainConfig(Section):
    run: RunSettings
    data: DataSettings
    model: ModelSettings
    noise: NoiseSettings = NoiseSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings
    validation: ValidationSettings

    @model_validator(mode="after")
    def _allowed_keys_exist(self):
        allowed = {key for key in dotted_keys(TrainConfig) if key.split(".")[0] in ("model", "noise")} | {"run.seed"}
        unknown = [key for key in self.run.allow_changed if key not in allowed]
        if unknown:
            raise ValueError(f"run.allow_changed: no key of model, noise or run.seed is called {', '.join(unknown)}")
        return self


class TinyBaseSettings(Section):
    out: str = key("tiny_svd", "where to write it", "folder")
    seed: int = key(0, "of the random weights", ge=0)
    vae_steps: int = key(0, "teach the VAE to draw the dummy dataset; the committed tiny_svd has 1500", "steps", ge=0)


class TinyBaseConfig(Section):
    tiny_base: TinyBaseSettings = TinyBaseSettings()


class DummyObjaverseSettings(Section):
    out: str = key("dummy_objaverse", "where the views go; the jsonl files are written beside it", "folder")
    size_px: int = key(128, "side of the views", "pixels", ge=16)


class DummyObjaverseConfig(Section):
    dummy_objaverse: DummyObjaverseSettings = DummyObjaverseSettings()


class RenderSettings(Section):
    assets: str = key(..., "folder of .glb .gltf .obj .ply .stl files, or a .txt of Objaverse uids, one a line", "path")
    out: str = key(..., "where the orbits, svd_meta.jsonl and failures.jsonl go", "folder")
    renderer: str = key("quick", "quick or blender")
    executable: str = key("", "a blender, or a Python that has bpy; empty: found by itself; quick takes none")
    device: Literal["cpu", "gpu"] = key("cpu", "where the renderer has a choice")
    num_views: int = key(21, "views of an orbit: 21, or 84 for four starts of 21", "views", ge=2)
    size_px: int = key(576, "side of the square views", "pixels", ge=16, le=4096)
    num_samples: int = key(16, "rays a pixel, or as many as the renderer comes near to", "rays", ge=1)
    elevation_min_deg: float = key(-5.0, "each object's elevation is drawn evenly from here", "degrees", ge=-89, le=89)
    elevation_max_deg: float = key(30.0, "to here", "degrees", ge=-89, le=89)
    hdris: str | None = key(None, "environment maps to choose from; null: procedural ones", "folder")
    seed: int = key(0, "elevation and light of an object follow from the seed and its id", ge=0)
    format: Literal["png", "webp"] = key("png", "of the views; both without loss")
    num_processes: int = key(1, "objects rendered at a time, the machine's cores divided among them", "processes", ge=1)
    time_limit_s: float = key(1800.0, "an object that takes longer is a failure", "seconds", gt=0)
    memory_limit_gib: float = key(8.0, "an object whose renderer takes more memory is a failure", "GiB", gt=0)
    max_asset_mib: float = key(512.0, "an asset that is larger, with its textures, is a failure", "MiB", gt=0)
    retry_failures: bool = key(False, "render again what failures.jsonl holds")
    licenses: tuple[str, ...] = key((), "Objaverse objects under these only, as [by, by-sa, cc0]; empty: all")
    sheet_rows: int = key(24, "orbits on accepted.png and rejected.png; 0: no sheets", "orbits", ge=0)

    @model_validator(mode="after")
    def _elevations_in_order(self):
        if self.elevation_min_deg > self.elevation_max_deg:
            raise ValueError(
                f"elevation_min_deg {self.elevation_min_deg} is above elevation_max_deg {self.elevation_max_deg}"
            )
        return self


class FilterSettings(Section):
    min_coverage: float = key(
        0.005, "part of the frame that the object fills in its largest view", "0 to 1", ge=0, le=1
    )
    min_opacity: float = key(0.2, "mean alpha of the pixels it touches", "0 to 1", ge=0, le=1)
    min_thickness: float = key(
        0.03, "its thinnest side over its second thinnest, measured on the silhouettes", ge=0, le=1
    )
    max_burnt: float = key(0.5, "part of its pixels with all channels at 250 or more", "0 to 1", ge=0, le=1)
    max_black: float = key(0.5, "part of its pixels with all channels at 5 or less", "0 to 1", ge=0, le=1)
    min_brightness: float = key(0.03, "mean luma of its pixels", "0 to 1", ge=0, le=1)
    min_change: float = key(0.004, "how far the view that differs most is from the first", "0 to 1", ge=0, le=1)


class RenderConfig(Section):
    render: RenderSettings
    filter: FilterSettings = FilterSettings()


class SampleConfig(Section):
    sample: SampleSettings


class EvaluateConfig(Section):
    evaluate: EvaluateSettings


class ExportConfig(Section):
    export: ExportSettings


SCHEMAS = {
    "train": TrainConfig,
    "check": TrainConfig,
    "sample": SampleConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "tiny_base": TinyBaseConfig,
    "dummy_objaverse": DummyObjaverseConfig,
    "render": RenderConfig,
}
