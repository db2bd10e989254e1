import copy
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from safetensors.torch import load_file, save_file

from models.lora import (
    EMBEDDING,
    WEIGHTS,
    add_adapter,
    lora_scale,
    merge,
    read_adapter,
    restore_adapter,
    save_adapter,
    sha256_of_weights,
)
from models.trainable import choose_trainable, trained_parts
from training.masters import lend_unet
from utils.errors import UserError
from utils.schemas import ModelSettings


def model(**changes) -> ModelSettings:
    return ModelSettings(**{"base": "tiny_svd", "train": "lora", "lora_rank": 4, "lora_alpha": 8.0, **changes})


@cache
def loaded_unet() -> UNetSpatioTemporalConditionModel:
    return UNetSpatioTemporalConditionModel.from_pretrained("tiny_svd", subfolder="unet")


def tiny_unet() -> UNetSpatioTemporalConditionModel:
    return copy.deepcopy(loaded_unet())


def with_adapter(settings: ModelSettings, seed: int = 0) -> UNetSpatioTemporalConditionModel:
    """A UNet with an adapter that does something."""
    unet = tiny_unet()
    choose_trainable(unet, settings, seed)
    random = torch.Generator().manual_seed(1)
    for name, weight in unet.named_parameters():
        if ".lora_B." in name:
            weight.data.normal_(0, 0.1, generator=random)
    return unet.eval()


def stock(weights: dict[str, torch.Tensor]) -> UNetSpatioTemporalConditionModel:
    unet = tiny_unet()
    unet.load_state_dict(weights)
    return unet.eval()


@torch.no_grad()
def output(unet) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    sample = torch.randn(1, 3, unet.config.in_channels, 8, 8, generator=random)
    embeds = torch.randn(1, 1, unet.config.cross_attention_dim, generator=random)
    return unet(sample, torch.tensor([0.1]), embeds, torch.tensor([[6.0, 10.0, 0.02]]), return_dict=False)[0]


def test_a_new_adapter_changes_nothing_and_follows_from_the_seed_alone():
    unets = [tiny_unet() for _ in range(3)]
    for unet, seed in zip(unets, (5, 5, 6)):
        torch.rand(seed)  # whatever was drawn before
        before = torch.random.get_rng_state()
        choose_trainable(unet, model(), seed)
        assert torch.equal(torch.random.get_rng_state(), before)
    one, same, other = (dict(unet.named_parameters()) for unet in unets)
    assert torch.equal(output(unets[0]), output(tiny_unet()))
    assert all(torch.equal(one[name], same[name]) for name in one)
    downs = [name for name in one if ".lora_A." in name]
    assert len(downs) > 50 and not any(torch.equal(one[name], other[name]) for name in downs)


def test_the_merged_weights_are_right_to_fp32_rounding_and_compute_what_the_adapter_does():
    unet = with_adapter(model())
    merged = merge(unet.state_dict(), lora_scale(model()))
    base = tiny_unet().state_dict()
    assert merged.keys() == base.keys()
    changed = [name for name in base if not torch.equal(merged[name], base[name])]
    assert len(changed) == sum(".lora_A." in name for name, _ in unet.named_parameters())
    for name in changed:
        assert re.search(r"\.attn\d\.to_(q|k|v|out\.0)\.weight$", name)
        down, up = (unet.get_submodule(f"{name[: -len('.weight')]}.lora_{part}.default").weight for part in "AB")
        exact = base[name].double() + 2 * up.double() @ down.double()
        assert torch.equal(merged[name], exact.float())
    expected = output(unet)
    assert (output(stock(merged)) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (expected - output(tiny_unet())).abs().max() > 1e-2 * expected.abs().max(), "the adapter does something"
    assert merge(base, 2.0).keys() == base.keys(), "without an adapter nothing happens"


def test_the_lent_unet_computes_what_is_trained_with_the_adapter_beside_its_base():
    unet = with_adapter(model())
    lent = lend_unet(unet, Accelerator(cpu=True))
    assert torch.equal(output(lent), output(unet)) and not lent.training
    assert not any(weight.requires_grad for weight in lent.parameters())


def test_both_kinds_of_attention_and_the_id_embedding_are_trained_and_nothing_else():
    unet = tiny_unet()
    assert choose_trainable(unet, model()).startswith("training lora: ")
    trained = {name for name, weight in unet.named_parameters() if weight.requires_grad}
    assert {name for name in trained if ".lora_" not in name} == {
        f"add_embedding.linear_{layer}.{kind}" for layer in "12" for kind in ("weight", "bias")
    }
    assert any(".temporal_transformer_blocks." in name for name in trained)
    assert any("blocks" in name and ".transformer_blocks." in name for name in trained)
    assert sum(tensors for tensors, _ in trained_parts(unet).values()) == len(trained)


def test_attention_trains_all_of_the_attention_layers_of_both_kinds():
    unet = tiny_unet()
    choose_trainable(unet, model(train="attention"))
    trained = {name for name, weight in unet.named_parameters() if weight.requires_grad}
    expected = {name for name, _ in unet.named_parameters() if re.search(r"\.attn\d\.", name)}
    assert trained == expected | {name for name, _ in unet.named_parameters() if name.startswith("add_embedding.")}
    assert any(".temporal_transformer_blocks." in name for name in expected)


def test_the_real_unet_has_414976_parameters_for_each_unit_of_rank():
    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel()
    choose_trainable(unet, model(lora_rank=2))
    assert sum(weight.numel() for name, weight in unet.named_parameters() if ".lora_" in name) == 2 * 414_976


@pytest.mark.parametrize(
    ("target", "fragment"),
    [("to_x", "ends in 'to_x'"), ("conv1", "is no linear layer"), ("linear_1", "is trained in full")],
)
def test_targets_that_cannot_have_an_adapter_are_refused(target, fragment):
    with pytest.raises(UserError, match=f"model.lora_targets: .*{fragment}"):
        add_adapter(tiny_unet(), model(lora_targets=("to_q", target)), 0)


def test_an_adapter_comes_back_bit_by_bit_and_only_on_its_own_base(tmp_path):
    unet = with_adapter(model())
    trained = {name: weight.detach() for name, weight in unet.named_parameters() if weight.requires_grad}
    frozen = {name: weight for name, weight in unet.named_parameters() if not weight.requires_grad}
    save_adapter(unet, trained, sha256_of_weights(frozen), model(), tmp_path)
    saved = read_adapter(tmp_path)
    assert saved.keys() == trained.keys() and all(torch.equal(saved[name], trained[name]) for name in saved)
    again = tiny_unet()
    choose_trainable(again, model(), seed=7)
    restore_adapter(again, tmp_path)
    assert torch.equal(output(again), output(unet))
    again.conv_in.bias.data[0] += 1e-6
    with pytest.raises(UserError, match=r"was trained on other weights than those that model\.base has now"):
        restore_adapter(again, tmp_path)


@pytest.mark.parametrize("file", [WEIGHTS, EMBEDDING])
@pytest.mark.parametrize(
    "change",
    [
        lambda weights, name: weights | {name: weights[name].flatten()},
        lambda weights, name: weights | {name: weights[name][:-1].clone()},
        lambda weights, name: weights | {name: weights[name].bfloat16()},
        lambda weights, name: {other: weight for other, weight in weights.items() if other != name},
        lambda weights, name: weights | {"x": weights[name].clone()},
        lambda weights, name: {},
    ],
)
def test_an_adapter_of_another_form_is_refused_before_anything_is_loaded(file, change, tmp_path):
    unet = with_adapter(model())
    trained = {name: weight.detach() for name, weight in unet.named_parameters() if weight.requires_grad}
    frozen = {name: weight for name, weight in unet.named_parameters() if not weight.requires_grad}
    save_adapter(unet, trained, sha256_of_weights(frozen), model(), tmp_path)
    weights = load_file(tmp_path / file)
    save_file(change(weights, max(weights)), tmp_path / file)
    with pytest.raises(UserError, match="holds another adapter than the config says"):
        restore_adapter(unet, tmp_path)
    (tmp_path / file).write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read"):
        restore_adapter(unet, tmp_path)


def test_diffusers_reads_the_saved_adapter_and_a_stock_unet_with_it_is_the_merged_one(tmp_path):
    """The lines of docs/using_a_model.md, which need no code of ours."""
    unet = with_adapter(model())
    unet.add_embedding.linear_2.bias.data += 1
    trained = {name: weight.detach() for name, weight in unet.named_parameters() if weight.requires_grad}
    save_adapter(unet, trained, "0" * 64, model(), tmp_path / "lora_ema")
    layers, _, about = StableDiffusionLoraLoaderMixin.lora_state_dict(tmp_path / "lora_ema", return_lora_metadata=True)
    assert {name.removeprefix("unet.") for name in layers} == {
        name.replace(".default.", ".") for name in trained if ".lora_" in name
    }
    assert about["unet.r"] == 4 and about["unet.lora_alpha"] == 8
    page = Path("docs/using_a_model.md").read_text()
    code = re.search(r"```python\n(from json import loads.*?)```", page, re.S)[1]
    code = code.replace("stabilityai/stable-video-diffusion-img2vid-xt", "tiny_svd")
    names = {}
    exec(code.replace("runs/NAME/checkpoints/step_0001000/lora_ema", str(tmp_path / "lora_ema")), names)
    expected = output(unet)
    # Weights that lie at other places in memory may be multiplied in another order.
    assert (output(names["unet"].eval()) - expected).abs().max() < 1e-5 * expected.abs().max()
