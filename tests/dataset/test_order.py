import pytest

from dataset.order import Share, record_index

# Each is (ranks, batch size, accumulation), with 4 orbits a step.
LAYOUTS = [(1, 4, 1), (2, 2, 1), (4, 1, 1), (1, 2, 2), (1, 1, 4), (2, 1, 2)]


def test_every_epoch_holds_every_record_once_in_another_order():
    epochs = [[record_index(3, epoch * 10 + place, 10) for place in range(10)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_holds_the_same_samples_however_it_is_divided(layout):
    num_ranks, batch_size, grad_accum_steps = layout
    per_rank = [
        list(Share(rank, num_ranks, batch_size, grad_accum_steps).micro_batches(0, 5)) for rank in range(num_ranks)
    ]
    assert all(len(batches) == 5 * grad_accum_steps for batches in per_rank)
    for step in range(5):
        micro_steps = range(step * grad_accum_steps, (step + 1) * grad_accum_steps)
        samples = [n for batches in per_rank for micro_step in micro_steps for n in batches[micro_step]]
        assert sorted(samples) == list(range(4 * step, 4 * step + 4))


def test_resuming_yields_the_rest_of_the_uninterrupted_run():
    share = Share(rank=1, num_ranks=2, batch_size=2, grad_accum_steps=3)
    assert list(share.micro_batches(4 * share.global_batch, 2)) == list(share.micro_batches(0, 6))[12:]


def test_going_on_with_another_batch_size_skips_and_repeats_no_sample():
    before = Share(0, 1, 2, 1)
    after = Share(0, 1, 5, 1)
    numbers = [*before.micro_batches(0, 3), *after.micro_batches(3 * before.global_batch, 2)]
    assert [n for batch in numbers for n in batch] == list(range(16))
