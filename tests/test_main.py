"""The door: help is instant, and every user error is one line and exit code 2."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import main
from tests.helpers.launch import ROOT
from utils.files import new_folder

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def test_help_is_fast_and_lists_the_commands():
    started = time.perf_counter()
    answer = subprocess.run([sys.executable, "main.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    for command in main.COMMANDS:
        assert any(line.split()[:1] == [command] and len(line.split()) > 3 for line in answer.stdout.splitlines())
    assert seconds < 5, "the promise is under a second on a quiet machine; heavy imports take ten"


def test_help_imports_nothing_heavy():
    code = "import main, sys; main.main(['--help']); print([m for m in ('torch', 'pydantic', 'numpy') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip().endswith("[]")


def test_train_help_lists_every_key_with_type_default_and_unit(capsys):
    from utils.config import dotted_keys
    from utils.schemas import TrainConfig

    assert main.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for key in dotted_keys(TrainConfig):
        assert f"  {key}: " in text
    assert "  data.size_px: int = 576 [pixels]" in text
    assert "  optim.schedule: constant | cosine | linear" in text
    assert "  train.max_steps: int = required [optimizer steps]" in text


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["trian"], "unknown command 'trian'"),
        (["train"], "run: missing"),
        (["train", "no.yaml"], "no.yaml: cannot be read"),
        (["train", "train_config/tiny_cpu.yaml", "optim.learning_rat=1"], "did you mean optim.learning_rate?"),
        (["train", "train_config/tiny_cpu.yaml", "learning_rate"], "expected section.key=value"),
        (["cache", "--cache.out", "folder"], "'--cache.out': expected section.key=value"),
        (["sample", "--sample.checkpoint", "tests"], "'--sample.checkpoint': expected section.key=value"),
        (["export", "tests", "--", "export.out=x"], "'--': expected section.key=value"),
        (["evaluate", "-x"], "'-x': expected section.key=value"),
        (["train", "train_config/tiny_cpu.yaml", "data.meta=nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["check", "train_config/tiny_cpu.yaml", "model.base=nowhere/at/all"], "no folder 'nowhere/at/all'"),
        (["check", "train_config/tiny_cpu.yaml", "model.base=stabilityai/nothing"], "hf download stabilityai/nothing"),
        (["check", "train_config/tiny_cpu.yaml", "model.base=tests"], "not in the diffusers SVD layout"),
        (["train", "train_config/tiny_cpu.yaml", "run.resume=must", "run.name=absent"], "there is no checkpoint in"),
        (["train", "train_config/tiny_cpu.yaml", "run.name=2024-13-01", "optim.betas=2024-13-45"], "optim.betas"),
        (["train", "train_config/tiny_cpu.yaml", "run.allow_changed=[noise.Pmean]"], "is called noise.Pmean"),
        (
            ["check", "train_config/tiny_cpu.yaml", "data.root=tests"],
            "svd_meta.jsonl:1: tests/001/000.png: cannot be read",
        ),
        (["check", "train_config/tiny_cpu.yaml", "model.base=a/b--c"], "a name the hub cannot have"),
    ],
)
def test_user_errors_are_one_line_and_exit_2(words, fragment, capsys, tmp_path):
    if words[0] == "train" and len(words) > 1:
        words = [*words, f"run.dir={tmp_path}"]
    assert main.main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert fragment in captured.err


@pytest.mark.parametrize(
    ("output", "code", "message"), [("nobody", 141, ""), ("/dev/full", 2, "No space left on device\n")]
)
def test_output_that_cannot_be_written_is_no_traceback(output, code, message):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") if output == "nobody" else open(output, "w") as file:
        answer = subprocess.run(
            [sys.executable, "main.py", "train", "--help"], cwd=ROOT, stdout=file, stderr=-1, text=True
        )
    assert answer.returncode == code and answer.stderr.count("\n") == bool(message)
    assert answer.stderr.endswith(message)


def test_closed_output_is_no_error():
    words = ["/bin/sh", "-c", 'exec "$0" main.py train --help >&-', sys.executable]
    answer = subprocess.run(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_one_line_under_every_command_and_leaves_nothing_unfinished(number, capsys, monkeypatch, tmp_path):
    def interrupted(*_):
        with new_folder(tmp_path / "export"):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(main, "run", interrupted)
    monkeypatch.setattr("utils.signals.leave_terminal", lambda: None)
    before = {each: signal.signal(each, signal.SIG_DFL) for each in SIGNALS}  # nohup, for one, has some ignored
    try:
        assert main.main(["export"]) == 128 + number
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert capsys.readouterr().err == f"stopped by {number.name}\n"
    assert not list(tmp_path.iterdir())


def test_dummy_objaverse_replaces_nobody_elses_list(capsys, tmp_path):
    mine = Path("svd_meta_held_out.jsonl").read_text().replace('"id": "', '"id": "my ')
    (tmp_path / "svd_meta_held_out.jsonl").write_text(mine)
    assert main.main(["dummy_objaverse", f"dummy_objaverse.out={tmp_path}/views"]) == 2
    assert "lists other orbits, and would be replaced" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["svd_meta_held_out.jsonl"]


def test_a_run_folder_that_cannot_be_written_is_named(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert main.main(["train", "train_config/tiny_cpu.yaml", f"run.dir={tmp_path}/file"]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/file/tiny_cpu: cannot be written: Not a directory\n"


@pytest.mark.parametrize(
    ("part", "content", "fragment"),
    [
        ("unet/svd_mv.json", "not json", "svd_mv.json: cannot be read"),
        ("unet/svd_mv.json", "[]", "svd_mv.json: content: input should be an object, found []"),
        ("unet/svd_mv.json", '{"added_time_ids": ["azimuth"]}', "found ('azimuth',)"),
        ("unet/config.json", "{}{", "unet: cannot be loaded"),
        (
            "vae/config.json",
            '{"_class_name": "AutoencoderKLTemporalDecoder", "latent_channels": "x"}',
            "vae: cannot be loaded",
        ),
        ("scheduler/scheduler_config.json", "", "scheduler: cannot be loaded"),
        ("image_encoder/config.json", "[]", "image_encoder: cannot be loaded"),
    ],
)
def test_a_base_with_a_damaged_part_is_one_line_that_names_it(part, content, fragment, capsys, tmp_path):
    base = tmp_path / "base"
    shutil.copytree("tiny_svd", base)
    (base / part).write_text(content)
    assert main.main(["train", "train_config/tiny_cpu.yaml", f"model.base={base}", f"run.dir={tmp_path}"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: {base}/{part.split('/')[0]}") and fragment in message


def test_check_prints_the_config_and_what_follows(no_prediction, capsys):
    assert main.main(["check", "train_config/tiny_cpu.yaml", "train.max_steps=160", "optim.warmup_steps=40"]) == 0
    text = capsys.readouterr().out
    assert "warmup_steps: 40" in text and "40 of 160 steps are warm-up (25 %)" in text
    assert "1 process(es): global batch 2, 320 samples, 20.00 epochs" in text
    assert "8 process(es): global batch 16, 2,560 samples, 160.00 epochs" in text


def test_check_warns_of_held_out_records_that_are_trained_on(no_prediction, capsys, tmp_path):
    lines = (
        Path("svd_meta.jsonl").read_text().splitlines()[:2] + Path("svd_meta_held_out.jsonl").read_text().splitlines()
    )
    (tmp_path / "held_out.jsonl").write_text("\n".join(lines))
    words = ["check", "train_config/tiny_cpu.yaml"]
    assert main.main(words) == 0
    assert "warning" not in capsys.readouterr().out
    assert main.main([*words, f"validation.meta={tmp_path}/held_out.jsonl"]) == 0
    assert "# warning: 2 held-out records are in svd_meta.jsonl too" in capsys.readouterr().out
