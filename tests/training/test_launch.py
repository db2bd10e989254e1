"""What every launch is given."""

import os

import pytest

from training.launch import grow_segments, launched_accelerator

NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@pytest.mark.parametrize("name", NAMES)
def test_a_gpus_segments_grow_unless_the_user_has_set_the_allocator_under_either_name(name, monkeypatch):
    for each in NAMES:
        monkeypatch.delenv(each, raising=False)
    grow_segments()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setenv(name, "max_split_size_mb:128")
    grow_segments()
    assert {each: os.environ[each] for each in NAMES if each in os.environ} == {name: "max_split_size_mb:128"}


def test_ddp_keeps_one_copy_of_the_gradients():
    assert launched_accelerator().ddp_handler.gradient_as_bucket_view
