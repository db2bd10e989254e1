"""A run that trains an adapter, from `train` to what is made of it."""

import json
import shutil

import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from safetensors.torch import load_file

import main
from commands.train import train
from tests.commands.test_train import stop_after
from tests.helpers.runs import metrics, weights
from training.checkpoint import checkpoints, read_meta
from utils.errors import UserError

LORA = ("model.train=lora", "model.lora_rank=4", "optim.learning_rate=0.01", "optim.warmup_steps=0", "run.name=r")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_base):
    """A folder with a base, a run of three steps on it in `whole/r`, and one that was stopped after two in `halves/r`."""
    folder = tmp_path_factory.mktemp("lora")
    shutil.copytree(small_base, folder / "base")
    return folder


@pytest.fixture
def words(runs, tiny_config):
    def make(where: str, *more: str):
        return tiny_config(*LORA, f"model.base={runs}/base", f"run.dir={runs}/{where}", "train.max_steps=3", *more)

    return make


@pytest.fixture
def whole(runs, words):
    """The run of three steps. Once it is finished, to train it again does nothing."""
    train(words("whole", "train.ema_decay=0.5"))
    return runs / "whole/r"


def test_an_adapter_and_its_average_go_on_bit_by_bit_wherever_the_average_is_kept_and_the_base_stays_as_it_was(
    runs, words, whole, monkeypatch
):
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        train(words("halves", "train.ema_decay=0.5"))
    train(words("halves", "train.ema_decay=0.5", "run.resume=must", "train.ema_device=cpu"))
    whole, halves = (checkpoints(run)[-1] for run in (whole, runs / "halves/r"))
    ours, theirs = (read_meta(checkpoint)["files"] for checkpoint in (halves, whole))
    saved = {name for name in theirs if name.endswith(".safetensors")}
    assert len(saved) == 6 and ours.keys() == theirs.keys()
    for name in saved:
        mine, other = (load_file(checkpoint / name) for checkpoint in (halves, whole))
        assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in other), name
    states = [torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"] for checkpoint in (halves, whole)]
    assert len(states[0]) == len(states[1]) > 100
    for mine, other in zip(states[0].values(), states[1].values()):
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    assert metrics(runs / "whole/r") == metrics(runs / "halves/r")
    base, merged, average = weights(runs / "base"), weights(whole), weights(whole, "unet_ema")
    trained = {name for name in base if ".attn" in name and ".to_" in name and name.endswith("weight")}
    for name in base:
        if name in trained:
            assert not torch.equal(merged[name], average[name])
        elif not name.startswith("add_embedding."):
            assert torch.equal(merged[name], base[name]) and torch.equal(average[name], base[name]), name
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v"
    for part, unet in (("lora", merged), ("lora_ema", average)):
        adapter = load_file(whole / part / "pytorch_lora_weights.safetensors")
        down, up = (adapter[f"unet.{layer}.lora_{matrix}.weight"].double() for matrix in "AB")
        assert torch.equal(unet[f"{layer}.weight"], (base[f"{layer}.weight"].double() + up @ down).float())


def test_another_base_or_another_adapter_is_refused(runs, words, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "r")
    for change in ("model.lora_rank=8", "model.lora_targets=[to_q]", "model.train=attention"):
        with pytest.raises(UserError, match=f"does not fit other values of {change.partition('=')[0]}"):
            train(words("whole", f"run.dir={tmp_path}", "train.max_steps=4", change))
    file = runs / "base/unet/diffusion_pytorch_model.safetensors"
    original = file.read_bytes()
    file.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(UserError, match=r"lora was trained on other weights .* with model\.base=.*step_0000003"):
        train(words("whole", f"run.dir={tmp_path}", "train.max_steps=4"))
    file.write_bytes(original)


def test_what_is_made_of_a_lora_run_takes_the_merged_average(words, whole, tmp_path, capsys):
    """check, export with its card, the stock pipeline, a warm start in full."""
    assert main.main(["check", "train_config/tiny_cpu.yaml", *LORA]) == 0
    answer = capsys.readouterr().out
    assert "# training lora: " in answer and "#   add_embedding: " in answer and "#   down_blocks.0: " in answer
    checkpoint = checkpoints(whole)[-1]
    assert main.main(["export", str(whole), f"export.out={tmp_path}/out"]) == 0
    card = (tmp_path / "out/README.md").read_text()
    assert '| `model.train` | "lora" |' in card and "| `model.lora_rank` | 4 |" in card
    pipeline = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "out")
    average = weights(checkpoint, "unet_ema")
    assert all(torch.equal(weight, average[name]) for name, weight in pipeline.unet.state_dict().items())
    full = ("model.train=all", f"model.base={checkpoint}", f"run.dir={tmp_path}", "train.max_steps=1")
    train(words("full", *full, "optim.learning_rate=1e-30", "optim.weight_decay=0"))
    start = weights(checkpoints(tmp_path / "r")[-1])
    assert all(torch.allclose(start[name], weight, rtol=0, atol=1e-20) for name, weight in weights(checkpoint).items())
    card = json.loads((checkpoints(tmp_path / "r")[-1] / "meta.json").read_text())["config"]["model"]
    assert card["base"] == str(checkpoint)
