"""Training under DDP, ZeRO-2 and ZeRO-3 is the training of one process, and resumes bit by bit.

The launches are forks, which import nothing: see tests/helpers/forkserver.py, and tests/test_forkserver.py for what makes
them like real ones. As a user starts them, DDP is launched in a slow test of test_train.py, and ZeRO-2 in one here.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from commands.train import train
from tests.helpers.hostile_state import mutated_state
from tests.helpers.launch import ENVIRONMENT, TINY, accelerate_launch, forked_launch
from tests.helpers.runs import metrics, update_error, weights
from training.checkpoint import checkpoints, read_meta
from training.optimizer_state import expected_zero_state
from training.state_form import difference
from training.unpickling import read_pickle, weights_only_unpickling

SGD = (
    "optim.name=sgd",
    "optim.learning_rate=0.1",
    "optim.warmup_steps=0",
    "optim.max_grad_norm=0.5",
    "train.ema_decay=0.5",
)


REAL_ZERO_2 = pytest.param("ZeRO-2", accelerate_launch, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("engine", "launch"),
    [("DDP", forked_launch), ("ZeRO-2", forked_launch), ("ZeRO-3", forked_launch), REAL_ZERO_2],
)
def test_two_ranks_accumulating_ones_are_one_rank_of_four(engine, launch, engine_words, fast, tiny_config, tmp_path):
    """After two SGD steps weights, average, loss and norm are the same. Both ranks share a validation, and save a checkpoint.

    The two ranks compute every block again in the backward pass, the one does not.
    """
    train(tiny_config(*SGD, "run.name=one", "train.max_steps=2", "train.batch_size=4"))
    validate = ("validation.every_steps=2", "validation.num_records=2", "validation.num_inference_steps=2")
    divided = ("train.batch_size=1", "train.grad_accum_steps=2", "model.gradient_checkpointing=true")
    words = (*fast, *SGD, "run.name=two", "train.max_steps=2", *divided, *validate)
    answer = launch(*engine_words(engine, "no"), "main.py", "train", TINY, *words)
    assert answer.returncode == 0, answer.stdout[-3000:]
    assert f"2 processes train, under {engine}, on cpu" in answer.stdout
    one, two = tmp_path / "one", tmp_path / "two"
    for which in ("unet", "unet_ema"):
        assert update_error(two, one, which) < 1e-5
        ours, theirs = (weights(checkpoints(run)[-1], which) for run in (two, one))
        assert max((ours[name] - theirs[name]).abs().max() for name in ours) < 1e-6
    for name in ("train/loss", "train/grad_norm"):
        expected = [line[name] for line in metrics(one)]
        assert [line[name] for line in metrics(two)] == pytest.approx(expected, rel=1e-5)
    assert metrics(one)[0]["train/grad_norm"] > 0.5, "the clip value is in force"
    meta = json.loads((checkpoints(two)[-1] / "meta.json").read_text())
    assert meta["samples"] == 8 and meta["engine"] == {
        "type": "plain" if engine == "DDP" else engine,
        "num_processes": 2,
        "mixed_precision": None if engine == "DDP" else "no",
    }
    report = json.loads((two / "validation/step_0000002/metrics.json").read_text())
    assert [row["name"] for row in report["records"]] == ["000_table", "001_boat"]
    assert not list((two / "checkpoints").glob(".*"))


# DDP keeps the files of one process, whose resume tests/commands/test_train.py holds bit by bit.
PLAIN = pytest.param("DDP", "no", "temporal", marks=pytest.mark.slow)
ZERO_3_LORA = pytest.param("ZeRO-3", "bf16", "lora", marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("engine", "precision", "trained"),
    [PLAIN, ("ZeRO-2", "bf16", "lora"), ("ZeRO-3", "bf16", "temporal"), ZERO_3_LORA],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(engine, precision, trained, engine_words, fast, tmp_path):
    """Of three AdamW steps the last is done again, from the checkpoint before it. Files and logged numbers are compared."""
    words = (
        "train.max_steps=3",
        "train.batch_size=1",
        "train.save_every_steps=2",
        "validation.every_steps=0",
        f"model.train={trained}",
    )
    start = (*engine_words(engine, precision), "main.py", "train", TINY, *fast, *words, "train.log_every_steps=3")
    answer = forked_launch(*start, "run.name=whole")
    assert answer.returncode == 0, answer.stdout[-3000:]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints/step_0000003")
    answer = forked_launch(*start, "run.name=resumed", "run.resume=must", "train.ema_device=cpu")
    assert answer.returncode == 0, answer.stdout[-3000:]
    assert f"resumed from {resumed}/checkpoints/step_0000002" in answer.stdout
    assert metrics(resumed) == metrics(whole)
    ours, theirs = (read_meta(checkpoints(run)[-1])["files"] for run in (resumed, whole))
    assert ours.keys() == theirs.keys()
    safetensors = [name for name in theirs if name.endswith(".safetensors")]
    assert len(safetensors) == 2 + (0 if engine == "DDP" else 2) + (4 if trained == "lora" else 0)
    for name in safetensors:  # safetensors writes the metadata of a file in any order
        assert_equal(*(load_file(checkpoints(run)[-1] / name) for run in (resumed, whole)), name)
    for name in theirs:
        if name.endswith(".pt"):
            assert_equal(
                *(torch.load(checkpoints(run)[-1] / name, weights_only=False) for run in (resumed, whole)), name
            )
        if name.endswith("optim_states.pt"):
            assert_only_its_own_form_fits(checkpoints(whole)[-1] / name)


def assert_only_its_own_form_fits(path: Path) -> None:
    """A state that DeepSpeed has saved fits an engine like the one that saved it, and no mutant of it does."""
    with weights_only_unpickling():
        saved = read_pickle(path)["optimizer_state_dict"]
    inner = "base_optimizer_state" if "base_optimizer_state" in saved else "optimizer_state_dict"
    fresh = saved | {inner: saved[inner] | {"state": {}}}
    stand_in = SimpleNamespace(state_dict=lambda: fresh, optimizer=torch.optim.AdamW([torch.zeros(1)]))
    masters = [moments["exp_avg"] for moments in saved[inner]["state"].values()]
    expected = expected_zero_state(stand_in, masters, step=3)
    assert difference(saved, expected, "state") is None
    refused = 0
    for what, mutant in mutated_state(saved, 500, seed=0):
        if difference(mutant, expected, "state"):
            refused += 1
        else:
            replaced = ("'lr'", "'weight_decay'", "'betas'", "'fused'", "'clip_grad'", "'overflow'", "'ds_version'")
            assert "exchange" in what or what.partition(")")[0].rstrip(",").endswith(replaced), what
    assert refused > 450


def assert_equal(ours, theirs, place: str) -> None:
    """Compare nested dicts and lists of tensors and plain values, bit by bit."""
    if isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs), place
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), place
        for key in theirs:
            assert_equal(ours[key], theirs[key], f"{place}/{key}")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), place
        for number, (mine, other) in enumerate(zip(ours, theirs)):
            assert_equal(mine, other, f"{place}/{number}")


def test_the_docs_line_for_zero_2_on_one_gpu_runs_on_a_cpu_with_the_tiny_config(fast, small_base, tmp_path):
    lines = Path("docs/engines.md").read_text().replace("\\\n", "").splitlines()
    words = next(
        line for line in lines if "launch --config_file accelerate_config/deepspeed_zero_2_one_gpu" in line
    ).split()
    assert words[-2:] == ["train", "train_config/train_local_svd_mv.yaml"]
    small = ("optim.learning_rate=1e-6", "optim.weight_decay=0", "optim.warmup_steps=0", "validation.every_steps=0")
    small += ("train.ema_warmup=true", "train.max_steps=2")
    answer = forked_launch(*words[3:-1], TINY, *fast, *small, "run.name=gpu_line")
    assert answer.returncode == 0, answer.stdout[-3000:]
    run = tmp_path / "gpu_line"
    assert [line["step"] for line in metrics(run)] == [1, 2]
    engine = {"type": "ZeRO-2", "num_processes": 1, "mixed_precision": "bf16"}
    assert read_meta(checkpoints(run)[-1])["engine"] == engine
    base, saved, average = (
        weights(small_base),
        *(weights(checkpoints(run)[-1], which) for which in ("unet", "unet_ema")),
    )
    names = [name for name in base if name.endswith(("conv1.weight", "proj_in.weight"))]
    assert len(names) > 10
    for name in names:
        moved, followed = ((state[name] - base[name]).abs() for state in (saved, average))
        assert 1e-6 < moved.max() < 3e-6, "two steps of Adam from the fp32 weights: a bf16 master would differ by 1e-4"
        assert 2e-7 < followed.max() < moved.max(), "the average moves by less than bf16 holds"
        assert (average[name].bfloat16() == base[name].bfloat16()).float().mean() > 0.95


@pytest.mark.parametrize(("engine", "what"), [("DDP", "loss"), ("ZeRO-2", "gradient")])
def test_what_is_not_finite_on_one_rank_stops_all_before_the_update(
    engine, what, engine_words, fast, tmp_path, monkeypatch
):
    """One kind is enough for each engine: ranks agree on the loss by the same code, and only the norm comes from the engine."""
    monkeypatch.setitem(ENVIRONMENT, "POISON", what)
    words = (
        *fast,
        "run.name=r",
        "train.batch_size=1",
        "train.save_every_steps=1",
        "validation.every_steps=0",
        "train.max_steps=5",
    )
    answer = forked_launch(*engine_words(engine, "no"), "tests/helpers/poisoned.py", "train", TINY, *words)
    assert answer.returncode != 0
    lines = [line for line in answer.stdout.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2 and lines[0] == lines[1], answer.stdout[-3000:]
    name = "loss" if what == "loss" else "gradient norm"
    assert lines[0].startswith(f"error: step 3: {name} is not finite, the weights were not changed: sample ")
    assert "sample 5 (svd_meta.jsonl:" in lines[0], "rank 1's sample of the third step"
    assert ("sample 4 (" in lines[0]) == (what != "loss")
    assert [path.name for path in checkpoints(tmp_path / "r")] == ["step_0000001", "step_0000002"]
