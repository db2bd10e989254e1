import json

import pytest

from tests.helpers.launch import PORT


@pytest.fixture
def fast(tmp_path, small_base):
    return (
        f"run.dir={tmp_path}",
        f"model.base={small_base}",
        "run.tracker=none",
        "data.size_px=32",
        "data.num_frames=7",
        "train.log_every_steps=1",
        "validation.before=false",
        "validation.num_training_records=0",
    )


@pytest.fixture
def engine_words(tmp_path):
    """Return a function for the launch words of two processes. ZeRO-3, which leaves small weights whole, divides all here.

    It gives back each module's weights at once. By default it looks, after each of a thousand modules, whether one of the
    next thousand needs them: half of the time of these launches.
    """
    zero_3 = {
        "zero_optimization": {
            "stage": 3,
            "stage3_param_persistence_threshold": 0,
            "stage3_max_reuse_distance": 0,
        },
        "train_micro_batch_size_per_gpu": 1,
    }
    files = {"DDP": "accelerate_config/cpu.yaml", "ZeRO-2": "accelerate_config/deepspeed_zero_2.yaml"}

    def words(engine: str, precision: str) -> tuple[str, ...]:
        if engine == "ZeRO-3":
            (tmp_path / "ds.json").write_text(json.dumps(zero_3 | {"bf16": {"enabled": precision == "bf16"}}))
            config = f"deepspeed_config: {{deepspeed_config_file: {tmp_path}/ds.json, zero3_init_flag: false}}"
            (tmp_path / "zero_3.yaml").write_text(f"distributed_type: DEEPSPEED\nnum_machines: 1\n{config}\n")
            return ("--config_file", f"{tmp_path}/zero_3.yaml", "--num_processes", "2", *PORT)
        return ("--config_file", files[engine], "--num_processes", "2", "--mixed_precision", precision, *PORT)

    return words
