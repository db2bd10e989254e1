import json
import shutil
from itertools import pairwise

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel

from models.conditioning import STOCK_IDS, USUAL_VALUE
from models.edm import coefficients
from models.svd import (
    LAYOUT_FILE,
    Base,
    find_parts,
    load_svd,
    load_unet,
    save_unet,
    set_added_time_ids,
)
from models.trainable import choose_trainable
from utils.errors import UserError
from utils.schemas import ModelSettings

STOCK_SHAPED = ("fps_id", "elevation_deg", "noise_aug_strength")
TWO = ("noise_aug_strength", "elevation_deg")
FOUR = ("fps_id", "motion_bucket_id", "noise_aug_strength", "elevation_deg")


def stock_unet():
    unet = UNetSpatioTemporalConditionModel.from_pretrained("tiny_svd", subfolder="unet")
    torch.manual_seed(1)
    torch.nn.init.normal_(unet.add_embedding.linear_1.weight, std=0.2)  # so that the ids matter
    torch.nn.init.normal_(unet.add_embedding.linear_2.weight, std=0.2)
    return unet.eval()


@torch.no_grad()
def output(unet, layout, **values):
    random = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 5, unet.config.in_channels, 8, 8, generator=random)
    embeds = torch.randn(2, 1, unet.config.cross_attention_dim, generator=random)
    ids = torch.tensor([[{**USUAL_VALUE, **values}[name] for name in layout]] * 2)
    return unet(sample, coefficients(torch.tensor([0.5, 5.0])).c_noise, embeds, ids, return_dict=False)[0]


def test_the_ids_of_the_test_unet_matter():
    unet = stock_unet()
    assert (output(unet, STOCK_IDS) - output(unet, STOCK_IDS, motion_bucket_id=20.0)).abs().max() > 0.01


@pytest.mark.parametrize(
    "path",
    [(STOCK_IDS, layout, STOCK_IDS) for layout in (STOCK_SHAPED, TWO, FOUR)] + [(STOCK_IDS, TWO, FOUR, STOCK_SHAPED)],
)
def test_a_remap_keeps_the_output_for_the_usual_ids_there_and_back(path):
    unet = stock_unet()
    expected = output(unet, STOCK_IDS)
    for old, new in pairwise(path):
        set_added_time_ids(unet, old, new)
        assert (
            unet.add_embedding.linear_1.in_features
            == unet.config.projection_class_embeddings_input_dim
            == 256 * len(new)
        )
        assert (output(unet, new) - expected).abs().max() < 1e-5
    assert expected.abs().max() > 0.1


def test_a_kept_id_goes_on_acting_and_a_new_one_starts_without_effect_but_with_a_gradient():
    unet = stock_unet()
    changed = output(unet, STOCK_IDS, noise_aug_strength=3.0)
    set_added_time_ids(unet, STOCK_IDS, TWO)
    torch.testing.assert_close(output(unet, TWO, noise_aug_strength=3.0), changed, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        output(unet, TWO, elevation_deg=-5.0), output(unet, TWO, elevation_deg=30.0), atol=0, rtol=0
    )
    unet.add_embedding(unet.add_time_proj(torch.tensor([0.02, 12.0])).view(1, -1)).square().sum().backward()
    assert unet.add_embedding.linear_1.weight.grad[:, 256:].abs().max() > 0


def test_an_appended_id_changes_no_bit():
    unet = stock_unet()
    expected = output(unet, STOCK_IDS)
    set_added_time_ids(unet, STOCK_IDS, FOUR)
    torch.testing.assert_close(output(unet, FOUR, elevation_deg=20.0), expected, atol=1e-6, rtol=0)


def model(**changes) -> ModelSettings:
    return ModelSettings(base="tiny_svd", **changes)


@pytest.mark.parametrize("layout", [STOCK_SHAPED, TWO, FOUR])
def test_a_saved_unet_loads_again_in_its_own_layout_bit_by_bit(layout, tmp_path):
    unet = load_unet(find_parts(model()), model(added_time_ids=layout))
    save_unet(unet, layout, unet.state_dict(), tmp_path / "unet")
    assert json.loads((tmp_path / "unet" / LAYOUT_FILE).read_text()) == {"added_time_ids": list(layout)}
    again = load_unet(Base(tmp_path / "unet", tmp_path, None), model(added_time_ids=layout))
    assert all(torch.equal(a, b) for a, b in zip(unet.state_dict().values(), again.state_dict().values()))
    UNetSpatioTemporalConditionModel.from_pretrained(tmp_path / "unet")  # stock diffusers loads it as it is


def test_a_layout_that_does_not_fit_the_weights_says_what_to_write(tmp_path):
    unet = load_unet(find_parts(model()), model(added_time_ids=TWO))
    save_unet(unet, TWO, unet.state_dict(), tmp_path / "unet")
    (tmp_path / "unet" / LAYOUT_FILE).unlink()
    with pytest.raises(UserError, match=r"embeds 2 added time ids, but svd_mv.json names 3 .*write it"):
        load_unet(Base(tmp_path / "unet", tmp_path, None), model())


def test_weights_that_lack_a_tensor_are_refused_by_name(tmp_path):
    unet = load_unet(find_parts(model()), model())
    state = unet.state_dict()
    del state["conv_in.weight"]
    save_unet(unet, STOCK_SHAPED, state, tmp_path / "unet")
    with pytest.raises(UserError, match=r"conv_in\.weight"):
        load_unet(Base(tmp_path / "unet", tmp_path, None), model())


def test_a_damaged_weight_file_is_one_error(tmp_path):
    shutil.copytree("tiny_svd", tmp_path / "base")
    weights = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match="unet: cannot be loaded") as error:
        load_svd(Base(tmp_path / "base" / "unet", tmp_path / "base", None), model())
    assert "\n" not in str(error.value)


def test_everything_loads_in_fp32_and_only_the_unet_is_trainable(svd):
    parts = (svd.unet, svd.encoders.vae, svd.encoders.image_encoder)
    assert all(parameter.dtype == torch.float32 for part in parts for parameter in part.parameters())
    assert not any(parameter.requires_grad for part in parts[1:] for parameter in part.parameters())
    assert svd.sigma_range == (0.002, 700.0)


def test_temporal_and_spatial_divide_the_unet_and_share_only_the_id_embedding():
    unet = load_unet(find_parts(model()), model())
    chosen = {}
    for train in ("all", "temporal", "spatial"):
        assert f"training {train}: " in choose_trainable(unet, model(train=train))
        chosen[train] = {name for name, parameter in unet.named_parameters() if parameter.requires_grad}
    assert chosen["temporal"] | chosen["spatial"] == chosen["all"] == {name for name, _ in unet.named_parameters()}
    assert chosen["temporal"] & chosen["spatial"] == {
        name for name in chosen["all"] if name.startswith("add_embedding.")
    }
    tricky = {name for name in chosen["all"] if "time_mixer" in name or "time_pos_embed" in name or "temporal" in name}
    assert tricky <= chosen["temporal"] and len(tricky) > 100
    blocks = [name for name, module in unet.named_modules() if isinstance(module, TransformerSpatioTemporalModel)]
    assert blocks and all(f"{name}.proj_in.weight" in chosen["spatial"] for name in blocks)


def test_the_real_unet_has_the_published_size_and_temporal_share():
    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel()
    assert choose_trainable(unet, model(train="all")) == "training all: 1,524.62 M of the UNet's 1,524.62 M parameters"
    choose_trainable(unet, model(train="temporal"))
    sizes = {name: parameter.numel() for name, parameter in unet.named_parameters() if parameter.requires_grad}
    positions = sum(size for name, size in sizes.items() if "time_pos_embed" in name)
    ids = sum(size for name, size in sizes.items() if name.startswith("add_embedding."))
    published = sum(sizes.values()) - positions - ids
    assert round(published / 1e6, 1) == 556.9, "the published number does not count time_pos_embed"
    assert round(positions / 1e6, 1) == 99.2 and round(ids / 1e6, 1) == 2.6
