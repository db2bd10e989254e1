import copy

import pytest
import torch

from models.checkpointing import BLOCKS, checkpoint_blocks
from models.conditioning import Conditioning
from models.objective import denoising_loss
from models.svd import compile_blocks
from tests.helpers.small_base import small_parts


@pytest.fixture(scope="module")
def one_level_unet():
    """The small base's UNet: each kind of block, and few of them, since compiling takes most of the time."""
    return small_parts()[0]


def loss_and_gradients(unet):
    random = torch.Generator().manual_seed(0)
    channels = unet.config.out_channels
    latents, noise = (torch.randn(2, 3, channels, 8, 8, generator=random) for _ in range(2))
    cond = Conditioning(
        torch.randn(2, channels, 8, 8, generator=random),
        torch.randn(2, 1, 32, generator=random),
        torch.tensor([[6.0, 10.0, 0.02], [6.0, 30.0, 0.05]]),
    )
    loss = denoising_loss(unet, latents, cond, torch.tensor([0.5, 5.0]), noise).mean()
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in unet.named_parameters()}


def test_checkpointed_and_compiled_blocks_change_no_bit_and_no_name(one_level_unet):
    """With aot_eager, which traces and differentiates as inductor does, and compiles in seconds on a CPU."""
    plain, checkpointed, both = (copy.deepcopy(one_level_unet).train() for _ in range(3))
    checkpoint_blocks(checkpointed)
    checkpoint_blocks(both)
    compile_blocks(both, backend="aot_eager")
    expected_loss, expected = loss_and_gradients(plain)
    for unet in (checkpointed, both):
        assert list(unet.state_dict()) == list(plain.state_dict())
        loss, gradients = loss_and_gradients(unet)
        assert torch.equal(loss, expected_loss)
        assert gradients.keys() == expected.keys()
        assert all(torch.equal(gradients[name], gradient) for name, gradient in expected.items())


def test_every_block_is_computed_twice_and_its_copy_on_its_own(one_level_unet):
    unet = copy.deepcopy(one_level_unet).train()
    checkpoint_blocks(unet)
    copied = copy.deepcopy(unet)
    calls = {id(module): 0 for module in copied.modules() if isinstance(module, BLOCKS)}
    assert len(calls) > 5

    def count(module, *_):
        calls[id(module)] += 1

    for module in copied.modules():
        if isinstance(module, BLOCKS):
            inner = next(module.children())
            inner.register_forward_hook(lambda _, *__, module=module: count(module))
    loss_and_gradients(copied)
    assert set(calls.values()) == {2}
    assert all(parameter.grad is None for parameter in unet.parameters())
