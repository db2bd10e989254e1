"""What every launch is given."""

import os
from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType

from training.launch import grow_segments, launched_accelerator, refuse_other_engines, refuse_unsafe_settings
from training.run_folder import open_run
from utils.errors import UserError
from utils.schemas import RunSettings

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


def fake(engine: str, zero_stage: int | None = None) -> SimpleNamespace:
    plugin = SimpleNamespace(zero_stage=zero_stage)
    return SimpleNamespace(
        distributed_type=DistributedType[engine], state=SimpleNamespace(deepspeed_plugin=plugin), is_main_process=True
    )


@pytest.mark.parametrize(
    ("accelerator", "why"),
    [
        (fake("FSDP"), "distributed_type FSDP of the launch file is not supported: see accelerate_config/"),
        (fake("DEEPSPEED", 0), "zero_stage 0 of the launch file is not supported: use 1, 2 or 3"),
    ],
)
def test_an_engine_that_nothing_else_knows_of_is_refused_by_name(accelerator, why):
    with pytest.raises(UserError, match=why):
        refuse_other_engines(accelerator)
    for known in (fake("NO"), fake("MULTI_CPU"), fake("MULTI_GPU"), fake("DEEPSPEED", 2)):
        refuse_other_engines(known)


@pytest.mark.parametrize("section", ["optimizer", "scheduler"])
def test_an_optimizer_or_a_schedule_of_deepspeeds_config_is_refused(section):
    with pytest.raises(UserError, match=rf"^{section} of the DeepSpeed config must be left out: optim"):
        refuse_unsafe_settings({section: {"type": "any"}})


@pytest.mark.parametrize("name", ["run[1]", "run*", "what?"])
def test_a_folder_in_which_deepspeed_finds_no_checkpoint_is_refused_at_the_start(name, tmp_path):
    run = RunSettings(name="r", dir=str(tmp_path / name))
    with (
        pytest.raises(UserError, match="DeepSpeed finds no checkpoint in a folder with"),
        open_run(run, fake("DEEPSPEED", 2)),
    ):
        pass
    with open_run(run, launched_accelerator()) as folder:
        assert folder == tmp_path / name / "r", "without DeepSpeed it is a name like another"
