import pickle
import sys
import types

import pytest
import torch
from diffusers.models.resnet import AlphaBlender

from training.launch import make_accelerator
from training.meta import Meta
from training.optimizer import make_optimizer, set_hyperparameters
from training.resume import check_groups
from utils.errors import UserError
from utils.schemas import OptimSettings, TrainSettings

ADAMW, EIGHT_BITS = OptimSettings(weight_decay=0.5), OptimSettings(name="adamw_8bit", weight_decay=0.5)


@pytest.fixture
def accelerator():
    return make_accelerator(TrainSettings(max_steps=1), ADAMW)


def test_biases_norms_and_mixing_factors_have_no_weight_decay_and_everything_else_has(svd, accelerator):
    decaying, still = make_optimizer(svd.unet, ADAMW, accelerator).param_groups
    assert (decaying["weight_decay"], still["weight_decay"]) == (0.5, 0.0)
    kept = {id(weight) for weight in still["params"]}
    assert len(decaying["params"]) + len(kept) == len(list(svd.unet.parameters()))
    for module in svd.unet.modules():
        for name, weight in module.named_parameters(recurse=False):
            vector = name == "bias" or isinstance(module, (torch.nn.LayerNorm, torch.nn.GroupNorm, AlphaBlender))
            assert (id(weight) in kept) == vector, (type(module), name)


def test_a_step_without_gradient_shrinks_what_decays_and_leaves_the_rest_bit_by_bit(accelerator):
    layer = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    before = [weight.detach().clone() for weight in layer.parameters()]
    optimizer = make_optimizer(layer, OptimSettings(learning_rate=0.1, weight_decay=0.5), accelerator)
    for weight in layer.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    after = list(layer.parameters())
    torch.testing.assert_close(after[0], before[0] * 0.95)
    assert all(torch.equal(one, other) for one, other in zip(after[1:], before[1:]))


def test_a_resumed_optimizer_gets_the_yamls_decay_in_its_own_groups_only(svd, accelerator):
    optimizer = make_optimizer(svd.unet, ADAMW, accelerator)
    set_hyperparameters(optimizer, OptimSettings(weight_decay=0.25, betas=(0.1, 0.2)), accelerator)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.0]
    assert {group["betas"] for group in optimizer.param_groups} == {(0.1, 0.2)}


def test_a_resumed_optimizer_is_saved_in_the_same_bytes(accelerator):
    layer = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    fresh, resumed = (accelerator.prepare(make_optimizer(layer, ADAMW, accelerator)) for _ in range(2))
    set_hyperparameters(resumed, ADAMW, accelerator)
    assert pickle.dumps(resumed.state_dict()) == pickle.dumps(fresh.state_dict())


def test_a_checkpoint_in_which_everything_decays_is_refused(tmp_path):
    assert Meta.model_fields["optimizer_groups"].default == 1
    check_groups(tmp_path, 2)
    with pytest.raises(UserError, match=r"biases and norms had weight decay too.*model\.base="):
        check_groups(tmp_path, 1)


def test_eight_bits_are_one_clear_line_without_a_gpu(tiny_config):
    from commands.train import train

    with pytest.raises(UserError, match=r"^optim\.name=adamw_8bit needs an NVIDIA GPU, and this is cpu: use adamw$"):
        train(tiny_config("run.name=r", "optim.name=adamw_8bit"))


def on_a_gpu(num_processes: int = 1, offload: str | None = None):
    """What make_optimizer looks at of an Accelerator; with `offload` one of DeepSpeed."""
    plugin = types.SimpleNamespace(offload_optimizer_device=offload)
    return types.SimpleNamespace(
        device=torch.device("cuda"),
        num_processes=num_processes,
        distributed_type="NO" if offload is None else "DEEPSPEED",
        state=types.SimpleNamespace(deepspeed_plugin=plugin),
    )


def test_eight_bits_with_a_gpu_are_bitsandbytes_with_our_groups_and_settings(svd, monkeypatch, caplog):
    """A stand-in for bitsandbytes: it needs a GPU."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        make_optimizer(svd.unet, EIGHT_BITS, on_a_gpu())
    optim = types.SimpleNamespace(AdamW8bit=lambda params, lr, betas: (params, lr, betas))
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.SimpleNamespace(optim=optim))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", optim)
    groups, lr, betas = make_optimizer(svd.unet, EIGHT_BITS, on_a_gpu())
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0] and (lr, betas) == (1e-5, (0.9, 0.999))
    with pytest.raises(UserError, match="cannot step in the CPU's memory"):
        make_optimizer(svd.unet, EIGHT_BITS, on_a_gpu(offload="cpu"))
    with caplog.at_level("INFO", "svd_mv"):
        make_optimizer(svd.unet, EIGHT_BITS, on_a_gpu(8, "none"))
    assert "ZeRO already divides the optimizer's state by 8" in caplog.text
