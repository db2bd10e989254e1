"""How a run is launched is read from the launcher, or from the launch file."""

import json
from dataclasses import replace

import pytest

from training.launch_file import Launch, find_launch
from utils.errors import UserError
from utils.schemas import CheckSettings

WHOLE = "num_processes: 1\nnum_machines: 1\n"
SHIPPED = "accelerate_config/{}.yaml"


def launch(name: str, num_processes: int | None = None) -> Launch:
    return find_launch(CheckSettings(launch_file=SHIPPED.format(name), num_processes=num_processes))


def test_the_launch_is_the_one_we_run_under_else_the_file_else_one_gpu(monkeypatch):
    assert find_launch(CheckSettings()) == launch("one_gpu")
    machines = [launch(*words).num_machines for words in (("deepspeed_zero_2", 16), ("one_gpu", 8), ("one_gpu", 9))]
    assert machines == [2, 1, 2], "a machine has at least 8 GPUs"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    found = launch("one_gpu")
    assert (found.zero_stage, found.num_processes, found.num_machines, found.precision) == (3, 16, 2, "bf16")


def test_a_deepspeed_config_of_ones_own_is_read_from_the_launch_file_and_under_it(tmp_path, monkeypatch):
    """`auto` is what the launch file says."""
    offload = {"device": "cpu", "pin_memory": True}
    config = {"zero_optimization": {"stage": 3, "offload_optimizer": offload}, "bf16": {"enabled": "auto"}}
    (tmp_path / "ds.json").write_text(json.dumps(config))
    (tmp_path / "launch.yaml").write_text(
        f"num_processes: 4\nnum_machines: 1\nmixed_precision: bf16\n"
        f"deepspeed_config: {{deepspeed_config_file: {tmp_path}/ds.json}}\n"
    )
    from_file = find_launch(CheckSettings(launch_file=f"{tmp_path}/launch.yaml"))
    assert (from_file.zero_stage, from_file.optimizer_on_host, from_file.weights_on_host) == (3, True, False)
    assert (from_file.bf16, from_file.num_processes) == (True, 4)
    for name, value in {
        "MIXED_PRECISION": "no",
        "USE_DEEPSPEED": "true",
        "DEEPSPEED_CONFIG_FILE": f"{tmp_path}/ds.json",
    }.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    assert find_launch(CheckSettings()) == replace(from_file, name="this launch", bf16=False, num_processes=1)


def test_what_is_measured_is_predicted_for_the_launch_that_measures():
    found = find_launch(CheckSettings(launch_file=SHIPPED.format("deepspeed_zero_2"), measure_steps=2))
    assert (found.zero_stage, found.num_processes, found.precision) == (0, 1, "fp32")
    with pytest.raises(UserError, match=r"^check\.num_processes=8: steps are measured with the 1 process"):
        find_launch(CheckSettings(measure_steps=2, num_processes=8))


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("num_processes: 1", "is no launch file of accelerate: num_machines: missing"),
        ("num_machines: 1\nnum_processes: .inf", "num_processes: input should be a valid integer, found inf"),
        ("num_machines: 0\nnum_processes: 1", "num_machines: input should be greater than or equal to 1"),
        (WHOLE + "deepspeed_config: {zero_stage: 9}", "zero_stage: input should be less than or equal to 3"),
        (WHOLE + "mixed_precision: fp16", "mixed_precision fp16 of the launch file is not supported: use bf16 or no"),
        (WHOLE + "deepspeed_config: 7", "deepspeed_config: input should be a valid dictionary"),
        (
            "num_processes: 1\nnum_machines: 1\ndeepspeed_config: {deepspeed_config_file: README.md}",
            "README.md: cannot be",
        ),
    ],
)
def test_a_launch_file_that_is_none_is_one_error(text, fragment, tmp_path):
    (tmp_path / "launch.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        find_launch(CheckSettings(launch_file=str(tmp_path / "launch.yaml")))
    assert fragment in str(error.value)
