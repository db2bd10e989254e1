"""`make bench` takes minutes. Its part that calls the UNet itself is tried here, on a base of other sizes than tiny_svd's."""

from benchmarks.loop_overhead import Interleaved


def test_a_bare_step_is_timed_before_each_step_of_the_loop_whatever_the_sizes_of_the_base(small_base):
    run = Interleaved(4, f"model.base={small_base}", "data.size_px=32", "data.num_frames=7", "validation.before=false")
    assert len(run.bare) == len(run.ours) == 3
    assert run.ratio() > 0
