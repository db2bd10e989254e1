"""The program runs under accelerate's launcher, and launches that cannot work are refused. All launches here are forks."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

import main
from tests.helpers.launch import PORT, TINY, forked_launch
from training.checkpoint import checkpoints
from training.launch import SAFE_SWITCHES, make_accelerator, refuse_unsafe_settings
from utils.errors import UserError


@pytest.mark.slow  # a real process, since accelerate starts its single one so; test_engines.py reads the line of a launch of two
def test_the_log_says_how_many_processes_train(fast, tmp_path):
    """Under MULTI_CPU accelerate starts one process where two were asked for, without a word."""
    config = tmp_path / "multi_cpu.yaml"
    config.write_text(
        "distributed_type: MULTI_CPU\nuse_cpu: true\nnum_machines: 1\nnum_processes: 2\nmixed_precision: 'no'\n"
    )
    words = (*fast, "run.name=alone", "train.max_steps=1", "validation.every_steps=0")
    answer = forked_launch("--config_file", str(config), "main.py", "train", TINY, *words)
    assert answer.returncode == 0, answer.stdout[-3000:]
    assert "1 process trains, under no engine, on cpu, mixed precision no" in answer.stdout


def test_processes_that_do_not_know_of_each_other_are_refused(tiny_config, monkeypatch):
    """MULTI_GPU without a GPU used to give two ranks of distributed_type NO, each training a model of its own."""
    Accelerator(cpu=True)  # it comes up alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    cfg = tiny_config()
    with pytest.raises(UserError, match="would not synchronise"):
        make_accelerator(cfg.train, cfg.optim)


@pytest.mark.parametrize("value", [False, 0, "false", None])
@pytest.mark.parametrize(("section", "key"), SAFE_SWITCHES)
def test_a_deepspeed_switch_that_would_break_a_promise_is_refused_by_name(section, key, value):
    safe, _ = SAFE_SWITCHES[section, key]
    refuse_unsafe_settings({section: {key: safe, "enabled": True}, "train_batch_size": "auto"})
    with pytest.raises(UserError, match=rf"^{section}\.{key} of the DeepSpeed config must be {str(safe).lower()}: "):
        refuse_unsafe_settings({section: {key: value if safe else str(value)}})


def test_a_damaged_checkpoint_is_an_error_on_every_rank(trained_run, engine_words, fast, tmp_path):
    """Only the first rank reads and verifies it."""
    shutil.copytree(trained_run, tmp_path / "r")
    with open(checkpoints(tmp_path / "r")[-1] / "optimizer.pt", "ab") as file:
        file.write(b"more")
    words = (*fast, "model.base=tiny_svd", "run.name=r", "train.max_steps=2", "validation.every_steps=0")
    answer = forked_launch(*engine_words("DDP", "no"), "main.py", "train", TINY, *words)
    assert answer.returncode != 0
    lines = [line for line in answer.stdout.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2 and lines[0] == lines[1], answer.stdout[-3000:]
    assert "optimizer.pt is not what was saved" in lines[0]


@pytest.fixture
def one_thread():
    """Take one thread, as `accelerate launch` gives each process. Another number of threads rounds differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_two_ranks_sample_what_one_samples(trained_run, one_thread, tmp_path):
    """There are three images, so that the ranks' shares differ. Each orbit is the same to the byte."""
    for name in ("017", "018", "019"):
        (tmp_path / "images").mkdir(exist_ok=True)
        shutil.copy(f"dummy_objaverse/{name}/003.png", tmp_path / "images" / f"{name}.png")
    words = (
        str(trained_run),
        f"sample.image={tmp_path}/images",
        "sample.elevation_deg=10",
        "sample.num_inference_steps=2",
    )
    assert main.main(["sample", *words, f"sample.out={tmp_path}/one"]) == 0
    launch = ("--config_file", "accelerate_config/cpu.yaml", "--num_processes", "2", *PORT)
    answer = forked_launch(*launch, "main.py", "sample", *words, f"sample.out={tmp_path}/two")
    assert answer.returncode == 0, answer.stdout
    assert sum(line.endswith("/seed_0") for line in answer.stdout.splitlines()) == 3, "divided: each by one rank"
    written = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.png"))
    assert len(written) == 3 * 23
    assert written == sorted(path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*.png"))
    for path in written:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path


def test_two_ranks_share_what_an_interruption_left_and_report_once(trained_run, one_thread, tmp_path):
    """One object of three is left, and the second rank measures it. CLIP cannot be loaded, so both ranks exit with 1."""
    lines = Path("svd_meta_held_out.jsonl").read_text().splitlines()[:3]
    (tmp_path / "three.jsonl").write_text("\n".join(lines) + "\n")
    words = (str(trained_run), f"evaluate.meta={tmp_path}/three.jsonl", "evaluate.num_inference_steps=2")
    words += ("evaluate.metrics=[psnr,ssim,clip]", "evaluate.clip_model=nobody/clip", "evaluate.video_px=32")
    assert main.main(["evaluate", *words, f"evaluate.out={tmp_path}/one"]) == 1
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for name in ("metrics.json", "metrics.csv", "index.html", "objects/guitar.json"):
        (tmp_path / "two" / name).unlink()
    launch = ("--config_file", "accelerate_config/cpu.yaml", "--num_processes", "2", *PORT)
    answer = forked_launch(*launch, "main.py", "evaluate", *words, f"evaluate.out={tmp_path}/two")
    assert answer.returncode == 1, answer.stdout
    measured = re.findall(r"^\d+/\d+ (boat|guitar|table), ", answer.stdout, flags=re.MULTILINE)
    assert measured == ["guitar"] and answer.stdout.count("3 objects, novel views") == 1
    for name in ("metrics.json", "metrics.csv", "objects/guitar.json"):
        one, two = ((tmp_path / folder / name).read_text() for folder in ("one", "two"))
        assert one == two.replace(f"{tmp_path}/two", f"{tmp_path}/one"), name


def test_a_zero_3_launch_samples(trained_run, engine_words, one_thread, tmp_path):
    """ZeRO-3 has nothing to divide here, since CLIP and the UNet stay whole."""
    words = (
        str(trained_run),
        "sample.image=dummy_objaverse/017/003.png",
        "sample.elevation_deg=10",
        "sample.num_inference_steps=2",
    )
    assert main.main(["sample", *words, f"sample.out={tmp_path}/one"]) == 0
    answer = forked_launch(*engine_words("ZeRO-3", "no"), "main.py", "sample", *words, f"sample.out={tmp_path}/two")
    assert answer.returncode == 0, answer.stdout
    one, two = (tmp_path / name / "003/seed_0/010.png" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
