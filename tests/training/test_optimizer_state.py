"""An optimizer state is loaded if it fits the optimizer, or refused by name before anything is given to torch."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from tests.helpers.hostile import mutated_bytes
from tests.helpers.hostile_state import ODD_TENSORS, mutated_state
from training.checkpoint import load_checkpoint
from training.ema import Ema
from training.optimizer import make_optimizer
from training.optimizer_state import PLAIN, expected_zero_state, save_optimizer_state
from training.state import TrainState
from training.state_form import difference
from training.unpickling import read_pickle
from utils.errors import UserError
from utils.schemas import ModelSettings, OptimSettings

STEPS = 3
EMA = "unet_ema/diffusion_pytorch_model.safetensors"


def fresh(name: str = "adamw") -> TrainState:
    """A small stand-in for the UNet, with parameters of one to four dimensions."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 7), nn.GroupNorm(2, 4), nn.Linear(2, 1, bias=False))
    accelerator = Accelerator(cpu=True)
    optimizer = accelerator.prepare(make_optimizer(net, OptimSettings(name=name), accelerator))
    return TrainState(accelerator, net, net, optimizer, Ema(list(net.parameters())), {}, ModelSettings(base=""))


def step(state: TrainState) -> None:
    for parameter in state.unet.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    state.ema.update(0.5)


def saved(state: TrainState, folder: Path) -> Path:
    (folder / "unet_ema").mkdir(parents=True)
    for _ in range(STEPS):
        step(state)
    save_optimizer_state(folder, state)
    average = zip(dict(state.unet.named_parameters()), state.ema.parts, strict=True)
    save_file(dict(average), folder / EMA)
    return folder


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return saved(fresh(), tmp_path / f"run/checkpoints/step_{STEPS:07d}")


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        one[i].keys() == other[i].keys() and all(torch.equal(one[i][name], other[i][name]) for name in one[i])
        for i in one
    )


def mistake(checkpoint: Path, expected: dict, name: str) -> str | None:
    """Load into a fresh optimizer: either all of it, bit by bit, or nothing. Then the error is returned."""
    state = fresh()
    before = [part.clone() for part in state.ema.parts]
    try:
        load_checkpoint(checkpoint, state)
    except UserError as error:
        assert str(error).startswith(f"{checkpoint} is damaged: {name}")
        assert "\n" not in str(error) and len(str(error)) < 1000
        assert not state.optimizer.state and all(map(torch.equal, before, state.ema.parts))
        return str(error)
    assert same(state.optimizer.state_dict()["state"], expected)
    step(state)
    return None


def test_a_mutated_state_is_loaded_bit_by_bit_or_refused_by_name(checkpoint):
    whole = torch.load(checkpoint / PLAIN)
    assert mistake(checkpoint, whole["state"], PLAIN) is None
    refused = 0
    for what, mutant in mutated_state(whole, 400, seed=0):
        torch.save(mutant, checkpoint / PLAIN)
        if mistake(checkpoint, mutant["state"] if "exchange" in what else whole["state"], PLAIN):
            refused += 1
        else:
            is_setting = re.search(r"'param_groups', [01], ", what)
            assert is_setting or "exchange" in what, "settings are not read, numbers not compared"
    assert refused > 250


@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_every_odd_moment_and_step_is_refused_with_its_place(kind, checkpoint):
    whole = torch.load(checkpoint / PLAIN)
    for name in ("step", "exp_avg", "exp_avg_sq"):
        value = whole["state"][1][name]
        torch.save(
            {**whole, "state": {**whole["state"], 1: {**whole["state"][1], name: ODD_TENSORS[kind](value)}}},
            checkpoint / PLAIN,
        )
        message = mistake(checkpoint, whole["state"], PLAIN)
        assert message and (f"{PLAIN}/state/1/{name} is" in message or "cannot be read" in message)


def test_mutated_bytes_are_a_state_of_the_right_form_or_one_error(checkpoint):
    path = checkpoint / PLAIN
    whole = path.read_bytes()
    refused = 0
    for mutant in mutated_bytes(whole, 300, seed=1):
        path.write_bytes(mutant)
        state = fresh()
        try:
            load_checkpoint(checkpoint, state)
        except UserError as error:
            assert str(error).startswith(f"{checkpoint} is damaged: {PLAIN}")
            refused += 1
        else:
            step(state)
    assert refused > 50


def test_an_average_of_another_shape_or_type_is_refused_by_name(checkpoint):
    whole = dict(fresh().unet.state_dict())
    expected = torch.load(checkpoint / PLAIN)["state"]
    for name, weight in whole.items():
        for odd in (weight.double(), weight[None], weight.flatten()[:1].clone(), torch.zeros(0), None):
            mutant = {key: value for key, value in (whole | {name: odd}).items() if value is not None}
            save_file(mutant, checkpoint / EMA)
            changed = odd is None or odd.shape != weight.shape or odd.dtype != weight.dtype
            assert (mistake(checkpoint, expected, f"unet_ema/{name} is") is None) == (not changed)
    (checkpoint / EMA).write_bytes(b"no weights")
    assert mistake(checkpoint, expected, "unet_ema: ")


def test_a_loaded_state_does_not_hang_on_the_file(checkpoint):
    """The file is mapped, and pruned later: on a CPU torch would keep its pages as the optimizer's state."""
    expected = torch.load(checkpoint / PLAIN)["state"]
    state = fresh()
    load_checkpoint(checkpoint, state)
    with open(checkpoint / PLAIN, "r+b") as file:
        file.write(b"\xff" * (checkpoint / PLAIN).stat().st_size)
    assert same(state.optimizer.state_dict()["state"], expected)


def test_sgd_has_no_state_and_the_other_optimizers_is_refused(checkpoint, tmp_path):
    other = saved(fresh("sgd"), tmp_path / f"sgd/checkpoints/step_{STEPS:07d}")
    load_checkpoint(other, fresh("sgd"))
    with pytest.raises(UserError, match=r"optimizer\.pt/state/0 is none of the optimizer"):
        load_checkpoint(checkpoint, fresh("sgd"))
    with pytest.raises(UserError, match=r"optimizer\.pt/state/0 is missing"):
        load_checkpoint(other, fresh())


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return print, ("it ran",)

    torch.save(Runs(), tmp_path / PLAIN)
    with pytest.raises(UserError, match=r"^optimizer\.pt: a pickle in it is refused: it would run print"):
        read_pickle(tmp_path / PLAIN)


@pytest.mark.parametrize(
    ("inner", "kept"),
    [("base_optimizer_state", {0: {}, 1: {}}), ("optimizer_state_dict", {})],
    ids=["ZeRO-2", "ZeRO-3"],
)
def test_the_state_of_sgd_without_a_moment_fits_as_each_stage_of_zero_saves_it(inner, kept):
    masters = [torch.zeros(3), torch.zeros(2)]
    before = {inner: {"state": {}, "param_groups": [{"lr": 0.1}]}}
    zero = SimpleNamespace(state_dict=lambda: before, optimizer=torch.optim.SGD([torch.zeros(1)]))
    expected = expected_zero_state(zero, masters, step=3)
    found = {inner: before[inner] | {"state": kept}}
    assert difference(found, expected, "state") is None
    found[inner]["state"] = kept | {2: {}}
    assert difference(found, expected, "state") is not None
