"""How a run is launched, as far as its memory depends on it: read from the launcher that started us, or from a launch file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, ValidationError

from models.activations import Precision
from utils.errors import UserError
from utils.reading import Saved, explain, mistakes, read_json, read_yaml
from utils.schemas import CheckSettings

DEFAULT_LAUNCH = "accelerate_config/one_gpu.yaml"
GPUS_OF_A_MACHINE = 8  # assumed, where check.num_processes asks for another number than the launch has


@dataclass(frozen=True)
class Launch:
    """How a run is started, as far as memory depends on it."""

    name: str
    zero_stage: int  # 0: without DeepSpeed
    optimizer_on_host: bool
    weights_on_host: bool
    bf16: bool
    num_processes: int
    num_machines: int

    @property
    def precision(self) -> Precision:
        if not self.bf16:
            return "fp32"
        return "bf16" if self.zero_stage else "autocast"

    def describe(self) -> str:
        engine = f"ZeRO-{self.zero_stage}" if self.zero_stage else "DDP" if self.num_processes > 1 else "no engine"
        host = ", optimizer on the host" if self.optimizer_on_host else ""
        host += ", weights on the host" if self.weights_on_host else ""
        return f"{self.name}: {self.num_processes} process(es), {engine}{host}, {self.precision}"


def find_launch(check: CheckSettings) -> Launch:
    """Return the launch that we run under, or else the one of `check.launch_file`. Raises UserError for a file that is none.

    What is measured is always the launch that we run under, which without a launcher is one process in fp32.
    """
    if "ACCELERATE_MIXED_PRECISION" in os.environ or check.measure_steps:
        launch = _launched(os.environ)
    else:
        launch = _from_file(Path(check.launch_file or DEFAULT_LAUNCH))
    if check.num_processes in (None, launch.num_processes):
        return launch
    if check.measure_steps:
        raise UserError(
            f"check.num_processes={check.num_processes}: steps are measured with the {launch.num_processes} process(es) of"
            " this launch; leave it out, or check.measure_steps"
        )
    per_machine = max(GPUS_OF_A_MACHINE, launch.num_processes // launch.num_machines)
    machines = -(-check.num_processes // per_machine)
    return replace(launch, num_processes=check.num_processes, num_machines=machines)


def computes_in_bf16(mixed_precision: str) -> bool:
    """Return whether the UNet computes in bf16 under a launch file's mixed_precision. Raises UserError for fp16 and fp8."""
    if mixed_precision not in ("no", "bf16"):
        raise UserError(f"mixed_precision {mixed_precision} of the launch file is not supported: use bf16 or no")
    return mixed_precision == "bf16"


def _launched(environment: Mapping[str, str]) -> Launch:
    prefix = "ACCELERATE_DEEPSPEED_"
    count = int(environment.get("WORLD_SIZE", 1))
    bf16 = computes_in_bf16(environment.get("ACCELERATE_MIXED_PRECISION", "no"))
    plain = Launch(
        "this launch", 0, False, False, bf16, count, count // int(environment.get("LOCAL_WORLD_SIZE", count))
    )
    if environment.get("ACCELERATE_USE_DEEPSPEED") != "true":
        return plain
    if config_file := environment.get(f"{prefix}CONFIG_FILE"):
        return _with_deepspeed_config(plain, Path(config_file))
    return replace(
        plain,
        zero_stage=int(environment.get(f"{prefix}ZERO_STAGE", 2)),
        optimizer_on_host=environment.get(f"{prefix}OFFLOAD_OPTIMIZER_DEVICE", "none") != "none",
        weights_on_host=environment.get(f"{prefix}OFFLOAD_PARAM_DEVICE", "none") != "none",
    )


class _DeepSpeed(Saved):
    deepspeed_config_file: str | None = None
    zero_stage: int = Field(2, ge=0, le=3)
    offload_optimizer_device: str = "none"
    offload_param_device: str = "none"


class _LaunchFile(Saved):
    """What is read of a launch file of accelerate."""

    mixed_precision: str = "no"
    num_processes: int = Field(ge=1, le=1_000_000)
    num_machines: int = Field(ge=1, le=1_000_000)
    deepspeed_config: _DeepSpeed | None = None


def _from_file(path: Path) -> Launch:
    raw = read_yaml(path)
    raw["deepspeed_config"] = raw.get("deepspeed_config") or None  # accelerate writes {} where there is none
    try:
        launch = _LaunchFile.model_validate(raw)
    except ValidationError as error:
        found = mistakes([explain(item) for item in error.errors(include_url=False)])
        raise UserError(f"check.launch_file: {path} is no launch file of accelerate: {found}") from None
    bf16 = computes_in_bf16(launch.mixed_precision)
    plain = Launch(str(path), 0, False, False, bf16, launch.num_processes, launch.num_machines)
    deepspeed = launch.deepspeed_config
    if deepspeed is None:
        return plain
    if deepspeed.deepspeed_config_file:
        return _with_deepspeed_config(plain, Path(deepspeed.deepspeed_config_file))
    return replace(
        plain,
        zero_stage=deepspeed.zero_stage,
        optimizer_on_host=deepspeed.offload_optimizer_device != "none",
        weights_on_host=deepspeed.offload_param_device != "none",
    )


class _Offload(Saved):
    device: str = "none"


class _Zero(Saved):
    stage: int = Field(0, ge=0, le=3)
    offload_optimizer: _Offload = _Offload()
    offload_param: _Offload = _Offload()


class _Bf16(Saved):
    enabled: bool | Literal["auto"] = False


class _DeepSpeedConfig(Saved):
    zero_optimization: _Zero = _Zero()
    bf16: _Bf16 = Field(_Bf16(), validation_alias=AliasChoices("bf16", "bfloat16"))


def _with_deepspeed_config(plain: Launch, path: Path) -> Launch:
    """Return the launch with what a DeepSpeed config of the user's own says; `auto` is the launch file's value."""
    config = read_json(path, _DeepSpeedConfig)
    zero = config.zero_optimization
    return replace(
        plain,
        zero_stage=zero.stage,
        optimizer_on_host=zero.offload_optimizer.device != "none",
        weights_on_host=zero.offload_param.device != "none",
        bf16=plain.bf16 if config.bf16.enabled == "auto" else config.bf16.enabled,
    )
