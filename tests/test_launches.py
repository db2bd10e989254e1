"""The program under real launchers: DDP, DeepSpeed ZeRO-2, and launches that must be refused."""

import json
from pathlib import Path

import pytest
from launch import accelerate_launch
from test_commands_train import metrics, update_error

from commands.train import train
from utils.checkpoint import checkpoints

CONFIG = "train_config/tiny_cpu.yaml"
SGD = (
    "optim.name=sgd",
    "optim.learning_rate=0.1",
    "optim.warmup_steps=0",
    "optim.max_grad_norm=0.5",
    "train.ema_decay=0.5",
)


@pytest.fixture
def fast(tmp_path):
    return (f"run.dir={tmp_path}", "run.tracker=none", "data.size_px=32", "train.log_every_steps=1")


ENGINES = {
    "DDP": ("--config_file", "accelerate_config/cpu.yaml", "--main_process_port", "0"),
    "ZeRO-2": (
        "--config_file", "accelerate_config/deepspeed_zero_2.yaml", "--num_processes", "2", "--mixed_precision", "no",
        "--main_process_port", "0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_two_ranks_of_one_are_one_rank_of_two(engine, fast, tiny_config, tmp_path):
    """One SGD step: the same update, loss and clipped norm; then a validation that both ranks share, and a checkpoint."""
    train(tiny_config(*SGD, "run.name=one", "train.max_steps=1", "train.batch_size=2"))
    validate = ("validate.every_steps=1", "validate.num_records=2", "validate.num_inference_steps=2")
    words = (*fast, *SGD, "run.name=two", "train.max_steps=1", "train.batch_size=1", *validate)
    answer = accelerate_launch(*ENGINES[engine], "main.py", "train", CONFIG, *words)
    assert answer.returncode == 0, answer.stdout[-3000:]
    one, two = tmp_path / "one", tmp_path / "two"
    for which in ("unet", "unet_ema"):
        assert update_error(two, one, which) < 1e-5
    for name in ("train/loss", "train/grad_norm"):
        assert metrics(two)[0][name] == pytest.approx(metrics(one)[0][name], rel=1e-5)
    assert metrics(one)[0]["train/grad_norm"] > 0.5, "the clip value is in force"
    meta = json.loads((checkpoints(two)[-1] / "meta.json").read_text())
    assert meta["samples"] == 2 and meta["engine"] == {
        "type": "plain" if engine == "DDP" else engine,
        "num_processes": 2,
    }
    report = json.loads((two / "validation/step_0000001/metrics.json").read_text())
    assert [row["name"] for row in report["records"]] == ["000_table", "001_boat"]
    assert not list((two / "checkpoints").glob(".*"))


def test_the_readmes_gpu_line_runs_on_a_cpu_with_the_tiny_config(fast, tmp_path):
    line = next(line for line in Path("README.md").read_text().splitlines() if line.startswith("python -m accelerate"))
    words = line.split()
    assert words[-2:] == ["train", "train_config/train_local_svd_mv.yaml"]
    answer = accelerate_launch(
        *words[3:-1], CONFIG, *fast, "run.name=gpu_line", "train.max_steps=2", "validate.every_steps=0"
    )
    assert answer.returncode == 0, answer.stdout[-3000:]
    run = tmp_path / "gpu_line"
    assert [line["step"] for line in metrics(run)] == [1, 2]
    assert json.loads((checkpoints(run)[-1] / "meta.json").read_text())["engine"] == {
        "type": "ZeRO-2",
        "num_processes": 1,
    }


def test_a_launch_that_would_not_synchronise_is_refused_with_the_reason(fast, tmp_path):
    """MULTI_CPU: accelerate starts one process where two were asked for, without a word."""
    config = tmp_path / "multi_cpu.yaml"
    config.write_text(
        "distributed_type: MULTI_CPU\nuse_cpu: true\nnum_machines: 1\nnum_processes: 2\nmixed_precision: 'no'\n"
    )
    answer = accelerate_launch("--config_file", str(config), "main.py", "train", CONFIG, *fast, "run.name=refused")
    assert answer.returncode != 0
    assert "error: 2 processes were asked for, but accelerate started one" in answer.stdout
    assert not (tmp_path / "refused").exists()


def test_processes_that_do_not_know_of_each_other_are_refused(tiny_config, monkeypatch):
    """MULTI_GPU without a GPU used to give two ranks of distributed_type NO, each training a model of its own."""
    from accelerate import Accelerator

    from utils.config import UserError
    from utils.run import make_accelerator

    Accelerator(cpu=True)  # a process that came up alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    cfg = tiny_config()
    with pytest.raises(UserError, match="would not synchronise"):
        make_accelerator(cfg.train, cfg.optim)
