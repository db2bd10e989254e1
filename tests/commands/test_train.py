"""The laws of the loop, on one process. The tests call `train` itself, with the tiny model and the dummy dataset."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from itertools import count

import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

import commands.train
from benchmarks.kill_and_resume import kill_and_resume
from commands.train import encode, train
from dataset.images import to_float
from dataset.views import OrbitBatch
from models.objective import draw
from tests.helpers.launch import ENVIRONMENT, ROOT, TINY, Fork, server
from tests.helpers.runs import metrics, update_error, weights
from training.checkpoint import checkpoints, checksums, read_meta, verify
from training.resume import changed_keys
from training.stop import StopRequests
from training.validation import validation_done
from utils.config import to_json
from utils.errors import UserError
from utils.files import unfinished_path
from utils.schemas import NoiseSettings
from utils.video import read_mp4


def stop_after(steps: int, monkeypatch) -> None:
    calls = count(1)
    monkeypatch.setattr(StopRequests, "pending", lambda self: next(calls) == steps)


FOUR = (
    "run.name=r",
    "train.max_steps=4",
    "train.log_every_steps=3",
    "noise.cond_dropout=0.5",
    "data.background=random",
)


def test_two_steps_a_resume_and_two_steps_are_four_steps_bit_by_bit(tiny_config, tmp_path, monkeypatch):
    train(tiny_config(*FOUR, f"run.dir={tmp_path}/whole"))
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        train(tiny_config(*FOUR, f"run.dir={tmp_path}/halves"))
    whole, halves = tmp_path / "whole/r", tmp_path / "halves/r"
    assert [path.name for path in checkpoints(halves)] == ["step_0000002"]
    # A process that was killed would leave such lines.
    (halves / "metrics.jsonl").write_text('{"step": 3, "train/loss": 1}\n{"step": 4, "train')
    train(tiny_config(*FOUR, f"run.dir={tmp_path}/halves"))
    for which in ("unet", "unet_ema"):
        ours, theirs = weights(checkpoints(halves)[-1], which), weights(checkpoints(whole)[-1], which)
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    states = [torch.load(checkpoints(run)[-1] / "optimizer.pt", weights_only=True)["state"] for run in (whole, halves)]
    for mine, other in zip(states[0].values(), states[1].values(), strict=True):
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    assert metrics(halves) == metrics(whole) and [line["step"] for line in metrics(whole)] == [3, 4]


def test_a_run_folder_holds_what_the_readme_says_and_a_finished_run_says_so(tiny_config, tmp_path, capsys):
    cfg = tiny_config("run.name=r", "train.max_steps=3", "train.save_every_steps=1", "train.keep_last=2")
    train(cfg)
    run = tmp_path / "r"
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock", "checkpoints", "config.yaml", "latest_checkpoint", "metrics.jsonl", "run.log",
    ]  # fmt: skip
    assert [path.name for path in checkpoints(run)] == ["step_0000002", "step_0000003"]
    meta = json.loads((checkpoints(run)[-1] / "meta.json").read_text())
    assert (meta["step"], meta["samples"], meta["engine"]["type"]) == (3, 6, "plain")
    assert meta["config"]["validation"]["meta"] == "svd_meta_held_out.jsonl" and "torch" in meta["versions"]
    before = (run / "metrics.jsonl").read_bytes()
    train(cfg)
    assert "is finished: 3 of 3 steps" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_bytes() == before
    with pytest.raises(UserError, match="resume=never"):
        train(tiny_config("run.name=r", "run.resume=never"))


def test_accumulating_is_a_larger_batch_and_the_division_of_a_step_does_not_show(tiny_config, tmp_path):
    sgd = (
        "model.base=tiny_svd",
        "optim.name=sgd",
        "optim.learning_rate=0.1",
        "train.max_steps=2",
        "optim.warmup_steps=0",
    )
    train(tiny_config("run.name=batch", *sgd, "train.batch_size=2"))
    train(tiny_config("run.name=accumulated", *sgd, "train.batch_size=1", "train.grad_accum_steps=2"))
    assert update_error(tmp_path / "accumulated", tmp_path / "batch") < 1e-5
    logged = [[line["train/loss"] for line in metrics(tmp_path / name)] for name in ("batch", "accumulated")]
    assert logged[0] == pytest.approx(logged[1], rel=1e-5)


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_what_is_not_finite_stops_before_the_update_and_names_the_records(what, tiny_config, tmp_path, monkeypatch):
    calls = count(1)
    objective = commands.train.denoising_loss

    def poisoned(unet, *arguments):
        losses = objective(unet, *arguments)
        if next(calls) == 2:
            poison = next(unet.parameters()).flatten()[0] * 0  # its square root is 0 with an infinite slope
            return losses * torch.tensor([1.0, float("nan")]) if what == "loss" else losses + poison.abs().sqrt()
        return losses

    monkeypatch.setattr(commands.train, "denoising_loss", poisoned)
    with pytest.raises(UserError) as error:
        train(tiny_config("run.name=r", "train.max_steps=3", "train.save_every_steps=1"))
    message = str(error.value)
    assert message.startswith(f"step 2: {what} is not finite, the weights were not changed: sample ")
    assert "sample 3 (svd_meta.jsonl:" in message and ("sample 2 (" in message) == (what != "loss")
    assert [path.name for path in checkpoints(tmp_path / "r")] == ["step_0000001"]


def test_a_changed_model_or_noise_section_is_refused_unless_named_and_other_changes_go_on(tiny_config, capsys):
    train(tiny_config("run.name=r", "train.max_steps=1"))
    longer = ("run.name=r", "train.max_steps=2")
    with pytest.raises(UserError, match=r"other values of noise\.P_mean: .* or name these keys in run\.allow_changed"):
        train(tiny_config(*longer, "noise.P_mean=1.5", "run.resume=must"))
    train(tiny_config(*longer, "noise.P_mean=1.5", "run.allow_changed=[noise.P_mean]", "optim.learning_rate=1e-4"))
    assert "noise.P_mean, optim.learning_rate, train.max_steps" in capsys.readouterr().out


def test_other_lines_in_the_data_of_a_resumed_run_are_told_and_go_on(tiny_config, tmp_path, capsys):
    meta = tmp_path / "meta.jsonl"
    lines = (ROOT / "svd_meta.jsonl").read_text().splitlines(keepends=True)
    meta.write_text("".join(lines[:-1]))
    words = ("run.name=r", f"data.meta={meta}")
    train(tiny_config(*words, "train.max_steps=1"))
    train(tiny_config(*words, "train.max_steps=2"))
    assert "has changed" not in capsys.readouterr().out
    meta.write_text("".join(lines))
    train(tiny_config(*words, "train.max_steps=3"))
    assert "(15 records then, 16 now): samples come in another order" in capsys.readouterr().out


def test_records_that_differ_between_the_ranks_are_refused(tiny_config, monkeypatch):
    def other_rank_too(items: list) -> list:
        return [*items, [{"count": 15, "sha256": "0" * 64}, items[0][1]]]

    monkeypatch.setattr("training.feeding.gather_objects", other_rank_too)
    with pytest.raises(UserError, match=r"svd_meta.jsonl is not the same file for all processes \(15 to 16 records\)"):
        train(tiny_config("train.max_steps=1"))


def test_validation_writes_videos_sheets_and_comparable_losses_and_trackers_get_them(tiny_config, tmp_path, capsys):
    cfg = tiny_config(
        "run.name=r", "run.tracker=tensorboard", "train.max_steps=2", "validation.every_steps=2",
        "validation.num_inference_steps=2", "validation.num_records=2",
        "validation.before=true", "validation.num_training_records=1",
        "optim.learning_rate=1e-30", "optim.weight_decay=0", "optim.warmup_steps=0",
    )  # fmt: skip
    train(cfg)
    reports = [json.loads((tmp_path / f"r/validation/step_000000{step}/metrics.json").read_text()) for step in (0, 2)]
    assert reports[0]["mean"] == reports[1]["mean"], "fixed seeds: unchanged weights give unchanged numbers"
    mean = reports[0]["mean"]
    assert (
        mean["loss"] == mean["loss_raw"] == pytest.approx(sum(mean[k] for k in mean if k.startswith("loss_sigma")) / 5)
    )
    assert mean["input_repeated_psnr_all"] > mean["input_repeated_psnr_novel"] > 5, "the input view is only in `all`"
    assert {"psnr_novel", "psnr_all", "ssim_novel", "ssim_all", "input_repeated_ssim_novel"} <= mean.keys()
    assert {f"seen_{name}" for name in mean if not name.startswith("seen_")} == {
        name for name in mean if name.startswith("seen_")
    }
    assert mean["loss_other_elevation"] == mean["loss"], "the base knows no elevation"
    output, _, rest = capsys.readouterr().out.partition("finished 2 steps")
    told = [line.split(" ", 2)[2] for line in output.splitlines() if " validat" in line]
    assert [line.partition(",")[0] for line in told[4:]] == [
        "validating step_0000002", *(f"validated {number}/3 of a process" for number in (1, 2, 3))
    ] and told[-1].endswith(" 0.0 min left")  # fmt: skip
    summary = rest.splitlines()
    assert [line.split("  ")[0] for line in summary[2:]] == [
        f"{kind} orbits, {row}" for kind in ("held-out", "training") for row in ("step 0", "step 2", "input view")
    ]
    assert f"{mean['seen_psnr_novel']:.3f}" in summary[-2]
    folder = tmp_path / "r/validation/step_0000002"
    assert sorted(path.name for path in folder.iterdir()) == [
        "000_table.mp4", "000_table.png", "001_boat.mp4", "001_boat.png", "metrics.json",
        "seen_000_car.mp4", "seen_000_car.png",
    ]  # fmt: skip
    assert read_mp4(folder / "000_table.mp4").shape == (7, 32, 96, 3)
    assert Image.open(folder / "000_table.png").size[0] > 7 * 96
    lines = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val/loss" in line] == [0, 2]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "r/tensorboard"), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Scalars("val/psnr_novel")] == [0, 2]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(
        [line["train/loss"] for line in metrics(tmp_path / "r")]
    )
    videos = events.Images("val/000_table")
    assert [video.step for video in videos] == [0, 2] and videos[0].encoded_image_string[:6] == b"GIF89a"


def test_a_run_stopped_between_saving_and_validating_validates_when_it_goes_on(tiny_config, tmp_path):
    cfg = tiny_config(
        "run.name=r",
        "train.max_steps=1",
        "validation.every_steps=1",
        "validation.num_inference_steps=2",
        "validation.num_records=1",
    )
    train(cfg)
    shutil.rmtree(tmp_path / "r/validation")
    train(cfg)
    assert (tmp_path / "r/validation/step_0000001/000_table.mp4").exists()


def test_a_checkpoint_is_a_base_and_its_average_runs_in_the_stock_pipeline(tiny_config, small_base, tmp_path):
    ids = "model.added_time_ids=[fps_id, elevation_deg, noise_aug_strength]"
    train(tiny_config("run.name=first", "train.max_steps=1", "model.train=temporal", ids))
    checkpoint = checkpoints(tmp_path / "first")[-1]
    train(
        tiny_config(
            "run.name=second",
            f"model.base={checkpoint}",
            "train.max_steps=1",
            "optim.learning_rate=1e-30",
            "optim.weight_decay=0",
        )
    )
    first, second = weights(checkpoint), weights(checkpoints(tmp_path / "second")[-1])
    assert all(torch.allclose(first[name], tensor, rtol=0, atol=1e-20) for name, tensor in second.items()), (
        "it starts from the checkpoint's weights"
    )
    base = weights(small_base)
    moved = {
        name for name in base if first[name].shape == base[name].shape and not torch.equal(first[name], base[name])
    }
    assert moved and not any("spatial_res_block" in name for name in moved), "frozen weights are saved as they were"

    shutil.copytree(small_base, tmp_path / "base", ignore=shutil.ignore_patterns("unet"))
    shutil.copytree(checkpoint / "unet_ema", tmp_path / "base/unet")
    pipeline = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "base")
    frames = pipeline(
        Image.new("RGB", (32, 32), "red"),
        height=32,
        width=32,
        num_frames=3,
        num_inference_steps=1,
        motion_bucket_id=15,
        output_type="np",
    ).frames
    assert frames.shape == (1, 3, 32, 32, 3)


def test_samples_are_counted_through_resumes_with_other_batch_sizes(tiny_config, tmp_path):
    for batch_size, max_steps, samples in ((2, 1, 2), (1, 3, 4), (3, 4, 7)):
        train(tiny_config("run.name=r", f"train.batch_size={batch_size}", f"train.max_steps={max_steps}"))
        assert read_meta(checkpoints(tmp_path / "r")[-1])["samples"] == samples


def test_what_an_ended_run_did_beyond_its_checkpoint_is_done_again(tiny_config, tmp_path, monkeypatch):
    short = ("validation.num_inference_steps=2", "validation.num_records=1")
    cfg = tiny_config("run.name=r", "train.max_steps=3", "train.save_every_steps=2", "validation.every_steps=3", *short)
    train(cfg)
    run = tmp_path / "r"
    shutil.rmtree(run / "checkpoints/step_0000003")  # as if killed after the validation and before the save
    first = (run / "validation/step_0000003/metrics.json").read_text()
    (run / "validation/step_0000003/000_table.mp4").unlink()
    unfinished_path(run / "checkpoints/step_0000003").mkdir()
    unfinished_path(run / "metrics.jsonl").touch()
    unfinished_path(run / "validation/step_0000003/metrics.json").touch()
    for name in ("step_mine", "step_0000003_copy"):  # a user's, and in the order of names after the step
        shutil.copytree(run / "validation/step_0000003", run / "validation" / name)
    (run / "validation/step_0000009").symlink_to(run / "validation/step_mine")
    train(cfg)
    assert sorted(path.name for path in (run / "validation").iterdir()) == [
        "step_0000003",
        "step_0000003_copy",
        "step_mine",
    ]
    for name in ("step_mine", "step_0000003_copy"):
        assert (run / "validation" / name / "metrics.json").read_text() == first
        shutil.rmtree(run / "validation" / name)
    assert (run / "validation/step_0000003/metrics.json").read_text() == first
    assert (run / "validation/step_0000003/000_table.mp4").exists()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val/loss" in line] == [3]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_0000002", "step_0000003"]
    assert not list(run.rglob(".*.unfinished"))


def test_the_optimizers_settings_are_the_yamls_after_a_resume_too(tiny_config, tmp_path):
    train(tiny_config("run.name=r", "train.max_steps=1"))
    train(tiny_config("run.name=r", "train.max_steps=2", "optim.weight_decay=0.5", "optim.betas=[0.5, 0.6]"))
    group = torch.load(checkpoints(tmp_path / "r")[-1] / "optimizer.pt", weights_only=True)["param_groups"][0]
    assert group["weight_decay"] == 0.5 and tuple(group["betas"]) == (0.5, 0.6)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ("optim.name=sgd", "does not fit other values of optim.name"),
        ("model.train=temporal", "does not fit other values of model.train"),
        ("model.added_time_ids=[elevation_deg]", "does not fit other values of model.added_time_ids"),
        ("run.seed=7", "other values of run.seed"),
    ],
)
def test_what_a_checkpoint_cannot_go_on_with_is_refused(change, fragment, tiny_config, tmp_path):
    saved = to_json(tiny_config())
    with pytest.raises(UserError, match=fragment):
        changed_keys(saved, tiny_config(change, "run.allow_changed=[model.train, model.added_time_ids]"))


def test_a_key_that_is_newer_than_a_checkpoint_had_its_default_there(tiny_config):
    saved = to_json(tiny_config())
    del saved["model"]["lora_rank"], saved["model"]["added_time_ids"], saved["noise"]["P_std"]
    assert changed_keys(saved, tiny_config()) == []
    with pytest.raises(UserError, match=r"other values of noise\.P_std"):
        changed_keys(saved, tiny_config("noise.P_std=1.5"))


def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_is_offered(tiny_config, tmp_path):
    longer = ("run.name=r", "train.max_steps=3")
    train(tiny_config("run.name=r", "train.max_steps=2", "train.save_every_steps=1"))
    last = checkpoints(tmp_path / "r")[-1]
    (tmp_path / "whole").mkdir()
    for name in ("unet/diffusion_pytorch_model.safetensors", "unet_ema/config.json", "optimizer.pt", "meta.json"):
        shutil.copytree(last, tmp_path / "whole/copy")
        content = bytearray((last / name).read_bytes())
        content[len(content) // 2] ^= 1
        (last / name).write_bytes(content if name != "meta.json" else b"{}")
        with pytest.raises(UserError, match=rf"step_0000002 is damaged: {name} .*goes on from .*step_0000001"):
            train(tiny_config(*longer))
        shutil.rmtree(last)
        shutil.move(tmp_path / "whole/copy", last)
    (last / "optimizer.pt").unlink()
    with pytest.raises(UserError, match=r"optimizer\.pt is missing"):
        train(tiny_config(*longer))
    shutil.rmtree(last)
    train(tiny_config(*longer))
    assert [path.name for path in checkpoints(tmp_path / "r")] == ["step_0000001", "step_0000003"]


class Planted:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_checkpoint_that_carries_code_is_refused(tiny_config, tmp_path):
    train(tiny_config("run.name=r", "train.max_steps=1"))
    checkpoint = checkpoints(tmp_path / "r")[-1]
    torch.save(Planted(tmp_path / "ran"), checkpoint / "optimizer.pt")
    meta = read_meta(checkpoint)
    (checkpoint / "meta.json").write_text(json.dumps(meta | {"files": checksums(checkpoint)}))
    with pytest.raises(UserError, match=r"a pickle in it is refused: it would run \S*open"):
        train(tiny_config("run.name=r", "train.max_steps=2"))
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_good_one(tiny_config, tmp_path, monkeypatch):
    original = torch.save
    calls = count(1)

    def full_disk(*arguments, **keywords):
        if next(calls) == 2:
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
        original(*arguments, **keywords)

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(
        UserError, match=r"step_0000002: cannot be saved: .*file write failed; the last good checkpoint is .*0001"
    ):
        train(tiny_config("run.name=r", "train.max_steps=3", "train.save_every_steps=1"))
    assert [path.name for path in checkpoints(tmp_path / "r")] == ["step_0000001"]


def test_a_gpu_without_memory_is_not_reported_as_a_disk_that_is_full(tiny_config, monkeypatch):
    def no_memory(*arguments, **keywords):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "save", no_memory)
    with pytest.raises(UserError, match=r"^out of memory \(CUDA out of memory\)"):
        train(tiny_config("run.name=r", "train.max_steps=1"))


def test_a_stop_at_the_last_step_is_the_end_unless_a_validation_is_owed(tiny_config, monkeypatch, capsys):
    for every_steps, fragment in ((0, "finished 2 steps"), (2, "stopped at step 2 as requested")):
        stop = iter((False, True))
        monkeypatch.setattr(StopRequests, "pending", lambda self, stop=stop: next(stop))
        name = f"run.name=every_{every_steps}"
        train(tiny_config(name, "train.max_steps=2", f"validation.every_steps={every_steps}"))
        assert fragment in capsys.readouterr().out


def test_encoding_drops_noises_and_conditions_each_sample_by_its_own_draws(svd, orbit_views):
    views = torch.cat([orbit_views, orbit_views.flip(1)])
    pixels = to_float(views)
    orbits = OrbitBatch(views, torch.tensor([10.0, -5.0]), n=[6, 7], places=["a:1", "a:2"])
    dropped_numbers = []
    coins = {
        seed: draw(seed, [6, 7], NoiseSettings(cond_dropout=0.5), (1, 1), (1, 1)).dropped.sum() for seed in range(20)
    }
    seed = next(seed for seed, dropped in coins.items() if dropped == 1)
    for dropout in (0.0, 0.5):
        noise = NoiseSettings(cond_dropout=dropout)
        latents, cond, draws = encode(orbits, svd.encoders, seed, noise, torch.device("cpu"))
        torch.testing.assert_close(latents, svd.encoders.latents(pixels))
        for row in range(2):
            alone = draw(seed, [6 + row], noise, latents.shape[1:], pixels.shape[2:])
            expected = svd.encoders.condition(
                pixels[row : row + 1, 0],
                orbits.elevation_deg[row : row + 1],
                alone.noise_aug_strength,
                alone.cond_noise,
            )
            assert draws.sigma[row] == alone.sigma and torch.equal(draws.noise[row], alone.noise[0])
            torch.testing.assert_close(cond.added_time_ids[row], expected.added_time_ids[0])
            if draws.dropped[row]:
                dropped_numbers.append(6 + row)
                assert cond.latents[row].eq(0).all() and cond.image_embeds[row].eq(0).all()
            else:
                torch.testing.assert_close(cond.latents[row], expected.latents[0], atol=1e-4, rtol=1e-5)
                torch.testing.assert_close(cond.image_embeds[row], expected.image_embeds[0], atol=1e-5, rtol=1e-5)
    assert len(dropped_numbers) == 1


def asked_to_stop(ask, *words: str) -> tuple[Fork, str]:
    """Start a run with a loading process, call `ask(process)` once it has logged its first steps, and return its output."""
    process = Fork("main.py", "train", TINY, *words, "validation.every_steps=0", "train.max_steps=100000")
    output = ""
    for line in process.stdout:
        output += line
        if "step 3/" in line:
            ask(process)
    return process, output


def test_a_stop_file_and_a_signal_to_the_process_group_save_and_exit_0(tmp_path, fast, tiny_config):
    requests = {
        "file": lambda process: (tmp_path / "file/r/STOP").touch(),
        "signal": lambda process: os.killpg(process.pid, signal.SIGTERM),
    }
    for name, ask in requests.items():
        process, output = asked_to_stop(ask, *fast, f"run.dir={tmp_path / name}", "run.name=r")
        assert process.wait() == 0, output
        assert "as requested; the same command goes on from there" in output
        run = tmp_path / name / "r"
        step = read_meta(checkpoints(run)[-1])["step"]
        assert step >= 3
    train(tiny_config(f"run.dir={tmp_path}/file", "run.name=r", f"train.max_steps={step + 1}", "data.num_workers=1"))
    assert not (tmp_path / "file/r/STOP").exists(), "the next start removes it, and goes on"


def test_killed_in_its_first_step_and_in_its_last_pruning_it_goes_on_to_the_same_end(tmp_path, small_base):
    assert len(kill_and_resume(2, tmp_path, f"model.base={small_base}", start=Fork)) == 2


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_end(tmp_path, small_base):
    assert len(kill_and_resume(20, tmp_path, f"model.base={small_base}", start=Fork)) == 20


@pytest.fixture
def small_disk(tmp_path):
    """Give a file system of 21 MiB. Without the right to mount, limit the size of files, which gives the same kind of error."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=21m", "tmpfs", folder], capture_output=True).returncode == 0:
        yield folder
        subprocess.run(["umount", "--lazy", folder], check=True)  # the run's log is still open
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 2**20, limits[1]))  # less than the optimizer's state
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_is_one_error_and_leaves_the_last_good_checkpoint(small_disk, tiny_config, tmp_path):
    """Each checkpoint is some 8 MiB: two fit on the disk, the third does not."""
    with pytest.raises(
        UserError, match=r"step_000000\d: cannot be saved: .*; (the last good checkpoint is|there is no)"
    ):
        train(tiny_config(f"run.dir={small_disk}", "run.name=r", "train.max_steps=4", "train.save_every_steps=1"))
    assert not list((small_disk / "r/checkpoints").glob(".*"))
    good = checkpoints(small_disk / "r")
    for checkpoint in good:
        verify(checkpoint, read_meta(checkpoint)["files"])
    if good:
        assert [path.name for path in good] == ["step_0000001", "step_0000002"]


FORK_PYTHON = ROOT / "tests/helpers/fork_python.py"


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_slurm_script_stops_the_run_in_time_and_requeues_it(real, fast, tmp_path):
    """Two processes train under DDP on a CPU, srun and scontrol are stand-ins, and only the batch shell gets the signal."""
    for name, body in {
        "srun": f'echo "$1 $2 $3" > {tmp_path}/srun.log; shift 3; SLURM_NODEID=0 exec "$@"',
        "scontrol": f'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> {tmp_path}/scontrol.log; fi',
        "python": f'exec {sys.executable} "$@"' if real else f'exec {sys.executable} -S {FORK_PYTHON} "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "17", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "here", "GPUS_PER_NODE": "2"}
    slurm["SLURM_CPUS_PER_TASK"] = "2"
    if not real:
        slurm["FORK_SERVER"] = server()
    environment = (
        ENVIRONMENT | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LAUNCH_FILE": "accelerate_config/cpu.yaml"}
    )
    words = (*fast, "run.name=r", "validation.every_steps=0", "train.max_steps=100000", "train.batch_size=1")
    process = subprocess.Popen(
        ["bash", "accelerate_config/slurm.sbatch", TINY, *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip
    output = ""
    for line in process.stdout:
        output += line
        if "step 3/" in line:
            process.send_signal(signal.SIGUSR1)
    assert process.wait() == 0, output[-3000:]
    assert "stopped at step" in output and (tmp_path / "scontrol.log").read_text() == "requeue 17\n"
    assert (tmp_path / "srun.log").read_text() == "--cpus-per-task=2 --kill-on-bad-exit=1 --mem=0\n"
    meta = read_meta(checkpoints(tmp_path / "r")[-1])
    assert meta["step"] >= 3 and meta["engine"]["num_processes"] == 2


@pytest.mark.parametrize("killed", ["before", "after"])
def test_a_run_killed_as_a_validation_is_told_tells_it_once(killed, fast, tiny_config, tmp_path):
    words = ("run.name=r", "train.max_steps=2", "train.save_every_steps=1", "train.batch_size=1")
    short = ("validation.every_steps=1", "validation.num_inference_steps=2", "validation.num_records=1")
    process = Fork("tests/helpers/killed_validating.py", "train", TINY, *fast, *words, *short, KILLED=killed)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    assert not (tmp_path / "r/validation/step_0000001/metrics.json").exists()
    train(tiny_config(*words, *short, "data.num_workers=1"))
    lines = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], "val/loss" in line) for line in lines] == [(1, False), (1, True), (2, False), (2, True)]


@pytest.mark.parametrize("content", [None, b"", b'{"mean": {"loss": 1', b"[]", b"\xff\xfe", b"{}"])
def test_a_validation_whose_note_is_torn_is_not_done(content, tmp_path):
    if content is not None:
        (tmp_path / "metrics.json").write_bytes(content)
    assert not validation_done(tmp_path)
    (tmp_path / "metrics.json").write_text('{"mean": {}, "records": []}')
    assert validation_done(tmp_path)
