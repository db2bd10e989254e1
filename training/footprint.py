"""What a run needs of a GPU and of a machine, predicted from counts: how each engine keeps weights, gradients, optimizer, average.

The arithmetic is explained in docs/engines.md. None of it has been measured on a GPU.
"""

from dataclasses import dataclass

from models.activations import Count
from training.launch_file import Launch

OPTIMIZER_BYTES = {"adamw": 8, "adamw_8bit": 2, "sgd": 0}  # of its states, a trained parameter
BUCKET = 500_000_000  # gradients that DeepSpeed gathers before it reduces them (reduce_bucket_size)
GATHERED = 1_000_000_000  # weights that ZeRO-3 holds whole at a time (stage3_max_live_parameters)
LIBRARIES = 3 << 29  # CUDA's context, cuDNN's and NCCL's workspaces, and what the allocator cannot use: assumed
PROCESS = 3 << 30  # of a training process in the machine's memory, its libraries and loaders included: assumed
# What cards of a nominal size give to torch, in GiB: the least that is told of a 4080, A10, L40S, A100 and H200.
CARDS = {16: 15.6, 24: 22.0, 48: 44.4, 80: 79.1, 141: 139.8}
VALIDATION = "validation"
GIB = 2**30


@dataclass(frozen=True)
class Sizes:
    """What is counted of the modules, and what of the config decides over memory."""

    parameters: int  # of the UNet
    trained: int
    encoder_bytes: int  # VAE and CLIP
    optimizer: str
    average_on_host: bool
    accumulates: bool  # gradients over several micro-steps
    training: Count
    encoding: Count
    sampling: Count


@dataclass(frozen=True)
class Footprint:
    """Bytes by name: all of `held` all the time, beside it each of `phases` in its turn, and the machine's memory."""

    held: dict[str, int]
    phases: dict[str, dict[str, int]]
    machine: dict[str, int]

    @property
    def peaks(self) -> dict[str, int]:
        held = sum(self.held.values())
        return {name: held + sum(rows.values()) for name, rows in self.phases.items()}

    @property
    def total(self) -> int:
        return max(self.peaks.values())

    @property
    def tensors(self) -> int:
        """The most that tensors take while steps are taken: what torch's allocator can tell, and `check` measures."""
        return max(peak for phase, peak in self.peaks.items() if phase != VALIDATION) - LIBRARIES


def footprint(launch: Launch, sizes: Sizes) -> Footprint:
    """The memory of the GPU that needs most, and of a machine."""
    ranks = launch.num_processes if launch.zero_stage else 1
    weight = 2 if launch.precision == "bf16" else 4
    whole = 4 * sizes.trained // ranks  # an fp32 copy of what this rank updates
    optimizer = OPTIMIZER_BYTES[sizes.optimizer] * sizes.trained // ranks
    on_gpu = 0 if launch.optimizer_on_host else 1
    held = {
        "weights": _weights(launch, sizes, weight),
        "fp32 masters": whole * on_gpu if launch.zero_stage else 0,
        "optimizer": optimizer * on_gpu,
        "average": 0 if sizes.average_on_host else whole * on_gpu,
        "VAE and CLIP": sizes.encoder_bytes,
        "CUDA and libraries (assumed)": LIBRARIES,
    }
    engine = _engine(launch, sizes, whole, weight)
    training = engine | {
        "activations": sizes.training.kept,
        "a block computed again": sizes.training.peak - sizes.training.kept,
    }
    between = _never_given_back(launch, engine["gradients"], weight)
    accumulated = between | ({"gradients": engine["gradients"]} if sizes.accumulates else {})
    if launch.precision == "fp32":
        copy = 4 * sizes.parameters if launch.zero_stage else 0  # without an engine the model itself is lent
    else:
        copy = 2 * sizes.parameters
    phases = {
        "forward and backward": training,
        "encoding": accumulated | {"VAE and CLIP at work": sizes.encoding.peak},
        VALIDATION: between | {"a copy of the UNet": copy, "sampling and decoding": sizes.sampling.peak},
    }
    return Footprint(held, phases, _machine(launch, sizes, whole, optimizer, weight))


def _weights(launch: Launch, sizes: Sizes, weight: int) -> int:
    if launch.zero_stage < 3:
        return sizes.parameters * weight
    if launch.num_processes == 1 and not launch.weights_on_host:
        return sizes.parameters * weight  # a single rank uses the weights where they are
    divided = 0 if launch.weights_on_host else sizes.parameters * weight // launch.num_processes
    return divided + min(sizes.parameters, GATHERED) * weight


def _engine(launch: Launch, sizes: Sizes, whole: int, weight: int) -> dict[str, int]:
    """Gradients in fp32, and on their way to other ranks. DDP's buckets are the gradients.

    DeepSpeed allocates one bucket in full, however few gradients there are, and sends a copy of what has filled it. With an
    optimizer on the host, ZeRO-3 has the gradients there too, and ZeRO-2 has them on the GPU.

    All of it is added to all activations. From the second micro-step on the gradients do stand beside them. Those of a step of
    one micro-step grow as activations go, and a bucket is copied when it is full: there the sum is too high.
    """
    on_host = launch.zero_stage == 3 and launch.optimizer_on_host
    buckets = (BUCKET + min(BUCKET, sizes.trained)) * weight if launch.zero_stage else 0
    return {"gradients": 0 if on_host else whole, "engine's buckets": buckets}


def _never_given_back(launch: Launch, gradients: int, weight: int) -> dict[str, int]:
    """What of the engine's memory stays allocated outside of forward and backward passes."""
    if launch.zero_stage == 3:
        return {"gradients": gradients, "engine's buckets": BUCKET * weight}
    is_ddp = not launch.zero_stage and launch.num_processes > 1
    return {"gradients": gradients} if is_ddp else {}


def _machine(launch: Launch, sizes: Sizes, whole: int, optimizer: int, weight: int) -> dict[str, int]:
    """The memory of a machine while all its ranks load, and while its first rank saves."""
    processes = -(-launch.num_processes // launch.num_machines)
    # With offload: masters, their gradients, the average and the bf16 copy that goes back to the GPU.
    kept = 3 * whole + whole // 2 + optimizer if launch.optimizer_on_host else 0
    kept += sizes.parameters * weight // launch.num_processes if launch.weights_on_host else 0
    kept += whole if sizes.average_on_host and not launch.optimizer_on_host else 0
    passed = sizes.parameters * weight if launch.zero_stage else 0  # DeepSpeed makes it on the host
    pages = 4 * sizes.parameters  # of the UNet's file, which all ranks share
    return {
        "while loading": processes * (PROCESS + sizes.encoder_bytes + passed) + pages,
        "while saving": processes * (PROCESS + kept) + pages,
    }
