"""How the VAE of the tiny base begins: as a principal component analysis that keeps colours, and with blocks that add nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.images import to_float
from dataset.records import Records
from dataset.views import WHITE, load_views
from models.tiny_vae import LATENT_CHANNELS, keep_colours, resting_blocks, start_from_patches, tiny_vae
from utils.schemas import DataSettings

DATA = DataSettings(root="dummy_objaverse", meta="svd_meta.jsonl", size_px=64, num_workers=1)


@pytest.fixture(scope="module")
def views() -> Tensor:
    return torch.cat([to_float(load_views(record, DATA, 0, WHITE)[0]) for record in Records(DATA.meta, 21)])


@pytest.fixture(scope="module")
def started(views):
    torch.manual_seed(0)
    vae = tiny_vae().eval()
    start_from_patches(vae, views)
    return vae


@torch.no_grad()
def latents_of(vae, views: Tensor) -> Tensor:
    return vae.encode(views).latent_dist.mode()


def test_the_latents_it_begins_with_hold_what_principal_components_hold(started, views):
    some = views[::16]
    patches = some.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    latents = latents_of(started, some).permute(0, 2, 3, 1).flatten(0, 2)
    known = torch.cat([latents, torch.ones(len(latents), 1)], 1)
    left = patches - known @ torch.linalg.lstsq(known, patches).solution
    centred = patches - patches.mean(0)
    best = torch.linalg.svdvals(centred).square()[LATENT_CHANNELS:].sum() / centred.numel()
    assert best < left.square().mean() < 1.15 * best


COLOURS = ((0.0, 0.0, 0.0), (0.8, -0.8, -0.8), (-0.8, 0.8, -0.8))


def test_a_colour_that_fills_the_picture_is_in_the_latents(started):
    grey, red, green = (torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 64, 64) for colour in COLOURS)
    means = [latents_of(started, picture)[..., 2:6, 2:6].mean((2, 3)) for picture in (grey, red, green)]
    assert (means[0] - means[1]).abs().max() > 0.5 and (means[1] - means[2]).abs().max() > 0.2


@torch.no_grad()
def test_a_closing_norm_passes_a_colour_only_with_the_ring():
    """Without it a group of two constant channels comes out as 1 and -1, whatever they were."""

    def change(ring: bool) -> float:
        torch.manual_seed(0)
        vae = tiny_vae()
        block = vae.decoder.up_blocks[-1].resnets[-1].spatial_res_block
        norm, conv = vae.decoder.conv_norm_out, vae.decoder.conv_out
        torch.nn.init.zeros_(block.conv2.weight)
        torch.nn.init.zeros_(block.conv2.bias)
        if ring:
            keep_colours(block, norm, conv)
        colour = torch.randn(1, 64, 1, 1).expand(1, 64, 64, 64)
        one, twice = (conv(F.silu(norm(block(shade * colour, None))))[..., 4:-4, 4:-4] for shade in (1, 2))
        return ((twice - one).abs().mean() / one.abs().mean()).item()

    assert change(ring=False) < 1e-2
    assert change(ring=True) > 0.5


def test_blocks_that_rest_change_nothing_and_are_not_trained(started, views):
    batch = views[::64]

    def reconstruct() -> Tensor:
        return started.decode(latents_of(started, batch), num_frames=1).sample

    whole = reconstruct()
    with resting_blocks(started):
        resting = reconstruct()
        resting.square().mean().backward()
        trained = {name for name, parameter in started.named_parameters() if parameter.requires_grad}
    assert torch.equal(whole, resting)
    assert {name for name, parameter in started.named_parameters() if parameter.grad is not None} <= trained
    assert not any("temporal_res_block" in name for name in trained)
    assert torch.equal(reconstruct(), whole) and all(parameter.requires_grad for parameter in started.parameters())
