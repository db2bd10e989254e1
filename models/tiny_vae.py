"""The VAE of the small SVD: the class and layout of the real one, begun so that it learns in an hour of a CPU.

Begun at random it learns for hours to pass a picture through. Here its encoder begins as a principal component analysis of
8 x 8 pixels, every residual block adds nothing yet, and two closing norms are kept from taking colours away.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock
from torch import Tensor, nn

LATENT_CHANNELS = 16  # SVD has 4; at 64 px a view has few latents, and four channels of them hold too little
WIDTH = 64
VIEW_PX = 64
ANCHOR = 16.0  # how far the ring of `keep_colours` lies from the other values
LINEAR = 4.0  # SiLU's input is moved so far that it is nearly the identity
SILENT_LOG_VARIANCE = -10.0  # the VAE's latents are means: `mode()`, as SVD takes them


def tiny_vae() -> AutoencoderKLTemporalDecoder:
    """Return the VAE with random weights: 3 x 64 x 64 pixels to LATENT_CHANNELS x 8 x 8."""
    return AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 4,
        block_out_channels=(WIDTH,) * 4,
        latent_channels=LATENT_CHANNELS,
        sample_size=VIEW_PX,
        scaling_factor=1.0,
    )


@torch.no_grad()
def start_from_patches(vae: AutoencoderKLTemporalDecoder, views: Tensor) -> None:
    """Make the encoder the principal component analysis of `views` (N 3 H W in [-1, 1]), the rest a linear map."""
    encoder, decoder = vae.encoder, vae.decoder
    for block in vae.modules():
        if isinstance(block, ResnetBlock2D):
            _clear(block.conv2)
        elif isinstance(block, SpatioTemporalResBlock):
            _clear(block.temporal_res_block.conv2)
    for middle in (encoder.mid_block, decoder.mid_block):
        _clear(middle.attentions[0].to_out[0])
    _clear(decoder.time_conv_out)
    decoder.time_conv_out.weight[range(3), range(3), 1] = 1

    _clear(encoder.conv_in)
    encoder.conv_in.weight[range(3), range(3), 1, 1] = 1
    down = [block.downsamplers[0].conv for block in encoder.down_blocks[:-1]]
    for channels, conv in zip((3, 12), down):  # four pixels become channels, without loss
        _clear(conv)
        for place in range(4):
            conv.weight[range(place, 4 * channels, 4), range(channels), place // 2, place % 2] = 1
    mean, components, deviations = _principal_components(views, WIDTH // 2)
    gain = (deviations[0] * deviations).rsqrt()[:, None]  # the first has a standard deviation of 1, the others of less
    basis = gain * components
    _clear(down[2])
    for first, sign in enumerate((1, -1)):  # as pairs, since a closing norm takes the sum of two neighbours away
        rows = slice(first, None, 2)
        patch = (sign * basis).reshape(len(basis), -1, 4)
        down[2].weight[rows, : patch.shape[1], :2, :2] = patch.unflatten(2, (2, 2))
        down[2].bias[rows] = -sign * basis @ mean
    keep_colours(encoder.mid_block.resnets[-1], encoder.conv_norm_out, encoder.conv_out)
    keep_colours(decoder.up_blocks[-1].resnets[-1].spatial_res_block, decoder.conv_norm_out, decoder.conv_out)
    latent_px = VIEW_PX // 8
    share = 1 - (latent_px - 2) ** 2 / latent_px**2  # of the ring
    undo = ANCHOR * math.sqrt(share * (1 - share)) / 2
    for conv in (encoder.conv_out, vae.quant_conv):
        _clear(conv)
    latents = range(LATENT_CHANNELS)
    for first, sign in enumerate((1, -1)):
        encoder.conv_out.weight[latents, range(first, 2 * LATENT_CHANNELS, 2), 1, 1] = sign * undo
    vae.quant_conv.weight[latents, latents] = 1
    vae.quant_conv.bias[LATENT_CHANNELS:] = SILENT_LOG_VARIANCE


def _principal_components(views: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (D), `count` components (count D) and their standard deviations of the 8 x 8 patches, D = 192 numbers.

    The numbers are in the order in which three times four pixels become channels.
    """
    patches = views
    for _ in range(3):
        patches = F.pixel_unshuffle(patches, 2)
    patches = patches.permute(0, 2, 3, 1).flatten(0, 2)
    mean = patches.mean(0)
    variances, components = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    order = variances.argsort(descending=True)[:count]
    deviations = variances[order].clamp_min(1e-6 * variances[order[0]]).sqrt()
    return mean, components.T[order], deviations


@torch.no_grad()
def keep_colours(block: ResnetBlock2D, norm: nn.GroupNorm, conv: nn.Conv2d) -> None:
    """Let the means of a picture's channels through the closing `norm`, which would set each group's mean and scale.

    The classes normalise in 32 groups, which leaves two of 64 channels a group: a colour that fills the picture is lost.
    `block`, the last one before the norm, adds a ring along the border, so large that mean and scale of a group hardly
    depend on the picture. `conv`, behind the norm, begins with the difference of the two channels of each group, in which
    the ring cancels. The ring needs no input: one hidden channel is a small constant, and a large kernel over it, the
    same everywhere, sees the padding at the border. (Were the constant large, each small step of the kernel would shift
    a colour of the whole picture.)
    """
    block.norm2.weight[0] = 0
    block.norm2.bias[0] = 0.5
    constant = F.silu(block.norm2.bias[0]).item()
    tap = -ANCHOR / (3 * constant)  # at the border three of the nine taps see padding
    block.conv2.weight[:, 0] = tap
    block.conv2.bias -= 9 * tap * constant
    norm.bias.fill_(LINEAR)
    conv.weight[:, 1::2] = -conv.weight[:, 0::2]
    conv.bias.zero_()


@contextmanager
def resting_blocks(vae: AutoencoderKLTemporalDecoder) -> Iterator[None]:
    """Leave out blocks that `start_from_patches` has made the identity: half of the work of a step.

    They are the temporal ones (SVD's first VAE was one of images, too), and of two blocks in a row at one size one.
    Nothing trains them, so that they stay the identity, also for those that do not leave them out.
    """
    blocks = [vae.encoder.down_blocks[0].resnets[0]]
    blocks += [block.resnets[0].spatial_res_block for block in vae.decoder.up_blocks]
    blocks += [block.temporal_res_block for block in vae.decoder.modules() if isinstance(block, SpatioTemporalResBlock)]
    for block in blocks:
        block.forward = _identity
        block.requires_grad_(False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
            block.requires_grad_(True)


def _identity(x: Tensor, temb: Tensor | None = None) -> Tensor:
    return x


def _clear(layer: nn.Module) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
