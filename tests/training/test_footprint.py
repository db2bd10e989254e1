"""The arithmetic of the engines, on sizes chosen so that it can be done in the head."""

from dataclasses import replace

import pytest

from models.activations import Count
from training.footprint import Sizes, footprint
from training.launch_file import Launch, find_launch
from utils.schemas import CheckSettings

SIZES = Sizes(
    parameters=10_000,
    trained=4_000,
    encoder_bytes=700,
    optimizer="adamw",
    average_on_host=False,
    accumulates=False,
    training=Count(kept=30, peak=50, flop=0),
    encoding=Count(kept=0, peak=40, flop=0),
    sampling=Count(kept=0, peak=60, flop=0),
)
SHIPPED = "accelerate_config/{}.yaml"


def launch(name: str, num_processes: int | None = None) -> Launch:
    return find_launch(CheckSettings(launch_file=SHIPPED.format(name), num_processes=num_processes))


@pytest.mark.parametrize(
    ("name", "weights", "masters", "optimizer", "average", "gradients"),
    [
        ("one_gpu", 40_000, 0, 32_000, 16_000, 16_000),
        ("multi_gpu", 40_000, 0, 32_000, 16_000, 16_000),
        ("deepspeed_zero_2_one_gpu", 20_000, 16_000, 32_000, 16_000, 16_000),
        ("deepspeed_zero_2", 20_000, 2_000, 4_000, 2_000, 2_000),
        ("deepspeed_zero_2_multi_node", 20_000, 250, 500, 250, 250),
        ("deepspeed_zero_2_offload", 20_000, 0, 0, 0, 16_000),
        ("deepspeed_zero_3", 22_500, 2_000, 4_000, 2_000, 2_000),
    ],
)
def test_an_engine_divides_what_it_divides(name, weights, masters, optimizer, average, gradients):
    """Of 10,000 parameters 4,000 are trained: 4 bytes each in fp32, 2 in bf16, 8 for Adam."""
    memory = footprint(launch(name), SIZES)
    expected = (weights, masters, optimizer, average)
    assert tuple(memory.held[row] for row in ("weights", "fp32 masters", "optimizer", "average")) == expected
    assert memory.phases["forward and backward"]["gradients"] == gradients
    assert memory.held["VAE and CLIP"] == 700
    assert memory.phases["forward and backward"]["activations"] == 30
    assert memory.phases["forward and backward"]["a block computed again"] == 20
    assert memory.total == max(memory.peaks.values()) > sum(memory.held.values())


def test_zero_3_gathers_weights_unless_a_single_rank_has_them_all_on_its_gpu():
    found = {
        (name, count): footprint(launch(name, count), SIZES).held["weights"]
        for name in ("deepspeed_zero_3", "deepspeed_zero_3_cpu")
        for count in (1, 8)
    }
    assert found == {
        ("deepspeed_zero_3", 1): 20_000,
        ("deepspeed_zero_3", 8): 22_500,
        ("deepspeed_zero_3_cpu", 1): 20_000,
        ("deepspeed_zero_3_cpu", 8): 20_000,
    }


def test_zero_allocates_a_whole_bucket_and_copies_the_gradients_that_are_in_it():
    """A bucket is 500,000,000 gradients in bf16. Fewer than that are trained with a LoRA."""
    many = replace(SIZES, trained=1_500_000_000)
    found = {
        (name, sizes.trained): footprint(launch(name), sizes).phases["forward and backward"]["engine's buckets"]
        for name in ("multi_gpu", "deepspeed_zero_2", "deepspeed_zero_3")
        for sizes in (SIZES, many)
    }
    whole = 1_000_000_000
    assert found == {
        ("multi_gpu", 4_000): 0,
        ("multi_gpu", many.trained): 0,
        ("deepspeed_zero_2", 4_000): whole + 8_000,
        ("deepspeed_zero_2", many.trained): 2 * whole,
        ("deepspeed_zero_3", 4_000): whole + 8_000,
        ("deepspeed_zero_3", many.trained): 2 * whole,
    }


def test_gradients_stay_between_micro_steps_and_ddp_and_zero_3_never_give_them_back():
    """ZeRO-3 with the optimizer on the host has them there."""

    def gradients(name: str, accumulates: bool) -> tuple[int | None, int | None]:
        phases = footprint(launch(name), replace(SIZES, accumulates=accumulates)).phases
        return phases["encoding"].get("gradients"), phases["validation"].get("gradients")

    for name, kept in (("multi_gpu", 16_000), ("deepspeed_zero_3", 2_000), ("deepspeed_zero_3_cpu", 0)):
        assert gradients(name, False) == gradients(name, True) == (kept, kept)
    for name, kept in (("one_gpu", 16_000), ("deepspeed_zero_2", 2_000)):
        assert gradients(name, False) == (None, None)
        assert gradients(name, True) == (kept, None)


def test_an_8_bit_optimizer_takes_a_quarter_and_an_average_on_the_host_takes_nothing_of_a_gpu():
    sizes = replace(SIZES, optimizer="adamw_8bit", average_on_host=True)
    memory = footprint(launch("one_gpu"), sizes)
    assert (memory.held["optimizer"], memory.held["average"]) == (8_000, 0)
    before = footprint(launch("one_gpu"), SIZES).machine["while saving"]
    assert memory.machine["while saving"] - before == 16_000


def test_validation_copies_the_unet_in_the_compute_type_unless_it_can_share_it():
    copied = {
        name: footprint(launch(name), SIZES).phases["validation"]["a copy of the UNet"] for name in ("one_gpu", "cpu")
    }
    assert copied == {"one_gpu": 20_000, "cpu": 0}


def test_the_ranks_of_a_machine_share_the_loaded_unet_and_an_offloaded_optimizer_stays_in_its_memory():
    one, eight, offload = (
        footprint(launch(name), SIZES).machine
        for name in ("deepspeed_zero_2_one_gpu", "deepspeed_zero_2", "deepspeed_zero_2_offload")
    )
    assert eight["while loading"] - 40_000 == 8 * (one["while loading"] - 40_000)
    assert offload["while saving"] - one["while saving"] == 4_000 * (4 + 8 + 4 + 4 + 2)
    assert footprint(launch("deepspeed_zero_2_multi_node"), SIZES).machine["while loading"] == eight["while loading"]
