"""What the tiny base is trained on, and how its two encoders are trained. The whole pretraining takes hours."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from commands import tiny_base, tiny_base_fit
from commands.tiny_base_clips import CLIPS_PER_ORBIT, turntable, write_clips
from commands.tiny_base_fit import contrastive_loss
from dataset.records import Records
from models.svd import load_part
from models.tiny import tiny_clip
from models.tiny_vae import tiny_vae
from rendering.toys import draw_toy, to_glb
from utils.config import load_config
from utils.errors import UserError
from utils.schemas import TinyBaseConfig


def test_every_clip_is_a_closed_loop_of_even_turns_or_a_swing():
    random = np.random.default_rng(0)
    for kind in range(CLIPS_PER_ORBIT):
        for _ in range(50):
            places = turntable(kind, 21, random)
            steps = (np.diff(places, append=places[0]) + 10) % 21 - 10
            assert places[0] == 0 and steps.sum() % 21 == 0
            if kind == 0:
                assert set(steps) == {1}
            elif kind == 1:
                assert set(steps) == {-1}
            elif kind == 2:
                assert set(steps) in ({2}, {-2})
            else:
                assert steps.sum() == 0 and abs(steps).max() <= 4 and steps.any()


def test_clips_are_the_views_of_their_orbit_and_the_same_every_time(tmp_path):
    for name in ("one.jsonl", "two.jsonl"):
        write_clips(Records("svd_meta.jsonl", 21), tmp_path / name, seed=3)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    orbits = Records("svd_meta.jsonl", 21)
    clips = Records(str(tmp_path / "one.jsonl"), 21)
    assert len(clips) == CLIPS_PER_ORBIT * len(orbits)
    for number, clip in enumerate(clips):
        orbit = orbits[number // CLIPS_PER_ORBIT]
        assert set(clip.image_paths) <= set(orbit.image_paths) and clip.elevations_deg == orbit.elevations_deg
    assert clips[0].image_paths == orbits[0].image_paths


def test_a_toy_follows_from_its_seed():
    one, again, other = (to_glb(draw_toy(np.random.default_rng(seed))) for seed in ([0, 1], [0, 1], [0, 2]))
    assert one == again != other and one[:4] == b"glTF"


def test_drawn_toys_are_listed_with_their_elevations_and_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_base, "TINY_BASE_HELD_OUT", 1)
    monkeypatch.setattr("utils.schemas.TINY_BASE_HELD_OUT", 1)
    words = (f"data.root={tmp_path}", "data.size_px=16", "data.num_frames=3", "tiny_base.num_processes=1")
    words += ("tiny_base.num_toys=7", "tiny_base.num_drawn_toys=3", "tiny_base.seed=4", "tiny_base.num_lights=1")
    cfg = load_config(TinyBaseConfig, ["train_config/tiny_base.yaml", *words])
    tiny_base.draw_toys(cfg)
    folder = tmp_path / "drawn_4"
    training, held_out = ([*Records(folder / name, 3)] for name in ("svd_meta.jsonl", "svd_meta_held_out.jsonl"))
    assert [record.id for record in held_out + training] == ["toy_0007", "toy_0008", "toy_0009"]
    elevations = [record.elevations_deg for record in training + held_out]
    assert all(-5 <= one <= 30 and one == two == three for one, two, three in elevations) and len({*elevations}) == 3
    drawn = [Image.open(folder / path) for record in training + held_out for path in record.image_paths]
    assert all(image.size == (16, 16) and image.getextrema()[3] == (0, 255) for image in drawn)
    assert len({image.tobytes() for image in drawn}) == 9
    before = (folder / "toy_0008/002.png").stat().st_mtime_ns
    whole = (folder / "toy_0009/002.png").read_bytes()
    (folder / "toy_0009").rename(folder / ".toy_0009.12345678.unfinished")  # as a killed process leaves it
    tiny_base.draw_toys(cfg)
    assert (folder / "toy_0008/002.png").stat().st_mtime_ns == before
    assert (folder / "toy_0009/002.png").read_bytes() == whole and not list(folder.glob(".*"))


def test_the_orbits_are_those_of_the_config_whatever_else_lies_there(tmp_path):
    for source in ("assets_0", "toys_0", "toys_1", "drawn_0", "drawn_1"):
        (tmp_path / source).mkdir()
        for name in ("svd_meta.jsonl", "svd_meta_held_out.jsonl"):
            (tmp_path / source / name).write_bytes(Path(name).read_bytes())
    for number, sources in ((0, {"assets_0", "toys_0"}), (30, {"assets_0", "drawn_1", "toys_0"})):
        words = (f"data.root={tmp_path}", "tiny_base.num_lights=1", "tiny_base.seed=1")
        words += (f"tiny_base.num_drawn_toys={number}",)
        tiny_base.gather(load_config(TinyBaseConfig, ["train_config/tiny_base.yaml", *words]), tmp_path)
        found = {record.id.partition("/")[0] for record in Records(tmp_path / "svd_meta.jsonl", 21)}
        assert found == sources


def test_a_fit_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch):
    orbits = torch.randint(256, (2, 3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(tiny_base_fit, "SAVE_EVERY_STEPS", 2)
    monkeypatch.setattr(tiny_base_fit, "VAE_BATCH", 2)

    def fitted(state, stopped=False) -> nn.Module:
        torch.manual_seed(0)
        vae = tiny_vae()
        if stopped:
            save = tiny_base_fit._save
            monkeypatch.setattr(tiny_base_fit, "_save", lambda *words: (save(*words), 1 / 0))
            with pytest.raises(ZeroDivisionError):
                tiny_base_fit.fit_vae(vae, orbits, 3, 0, state)
            monkeypatch.setattr(tiny_base_fit, "_save", save)
            vae = tiny_vae()
        tiny_base_fit.fit_vae(vae, orbits, 3, 0, state)
        return vae

    whole, resumed = fitted(tmp_path / "whole.pt"), fitted(tmp_path / "resumed.pt", stopped=True)
    assert whole.config.scaling_factor == resumed.config.scaling_factor != 1
    for ours, theirs in zip(resumed.state_dict().values(), whole.state_dict().values()):
        assert torch.equal(ours, theirs)


def test_a_damaged_state_of_a_fit_is_named(tmp_path):
    state = tmp_path / "image_encoder.pt"
    views = [torch.zeros(2, 3, 64, 64, dtype=torch.uint8)] * 2
    tiny_base_fit.fit_image_encoder(tiny_clip(), views, 1, 0, state)
    state.write_bytes(state.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"^image_encoder\.pt: cannot be read"):
        tiny_base_fit.fit_image_encoder(tiny_clip(), views, 2, 0, state)


def test_a_base_that_goes_on_from_another_has_its_parts_and_ids_and_rounds_only_what_changed(tmp_path, monkeypatch):
    for name in ("svd_meta.jsonl", "svd_meta_held_out.jsonl"):
        lines = [json.loads(line) for line in Path(name).read_text().splitlines()[:2]]
        named = (json.dumps(line | {"id": f"drawn_0/{line['id']}"}) + "\n" for line in lines)
        (tmp_path / name).write_text("".join(named))
    base, out, checkpoint = (tmp_path / name for name in ("start", "out", "step"))
    words = ("data.root=dummy_objaverse", f"model.base={base}", "tiny_base.start=tiny_svd", f"tiny_base.out={out}")
    cfg = load_config(TinyBaseConfig, ["train_config/tiny_base.yaml", *words])
    tiny_base.start(cfg, tmp_path)
    measured = json.loads((base / "measured.json").read_text())
    assert 25 < measured["vae_psnr"] < 35 and measured["num_objects"] == 2
    trained = load_part(UNetSpatioTemporalConditionModel, base, "unet", None)
    with torch.no_grad():
        trained.add_embedding.linear_1.weight += 1
        trained.conv_out.bias[:] = torch.tensor([1.05, 1.07, -3.13, 0.0] * 4)
    trained.save_pretrained(checkpoint / "unet_ema")
    monkeypatch.setattr(tiny_base, "read_meta", lambda checkpoint: {"step": 4, "samples": 1234})
    tiny_base.finish(cfg, tmp_path, checkpoint)
    for part in ("unet", "vae", "image_encoder"):
        before, after = (load_file(next((folder / part).glob("*.safetensors"))) for folder in (Path("tiny_svd"), out))
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert before.keys() == after.keys() and changed == ({"conv_out.bias"} if part == "unet" else set())
    rounded = load_file(out / "unet/diffusion_pytorch_model.safetensors")["conv_out.bias"]
    assert rounded.tolist() == [1.0, 1.125, -3.25, 0.0] * 4
    assert "its UNet was trained on: 4 steps, 1,234 clips" in (out / "README.md").read_text()
    assert (out / "held_out.txt").read_text() == "boat\ntable\n"


def test_a_base_to_start_from_that_is_none_is_an_error_before_anything_is_made(tmp_path):
    words = (f"tiny_base.work={tmp_path / 'work'}", f"tiny_base.out={tmp_path / 'out'}", "tiny_base.start=docs")
    words += (f"model.base={tmp_path / 'start'}",)
    with pytest.raises(UserError, match=r"^docs/vae: "):
        tiny_base.tiny_base(load_config(TinyBaseConfig, ["train_config/tiny_base.yaml", *words]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("step", "finished"), [(3, False), (4, True)])
def test_a_training_that_was_stopped_leaves_the_finished_base_as_it_is(step, finished, tmp_path, monkeypatch):
    calls = []
    for stage in ("write_toys", "draw_toys", "gather", "start", "write_clips", "encode_clips", "Records", "train"):
        monkeypatch.setattr(tiny_base, stage, lambda *_, **__: None)
    monkeypatch.setattr(tiny_base, "render", lambda cfg: 0)
    monkeypatch.setattr(tiny_base, "finish", lambda *_: calls.append("finish"))
    monkeypatch.setattr(tiny_base, "checkpoints", lambda run: [tmp_path / "step"])
    monkeypatch.setattr(tiny_base, "read_meta", lambda checkpoint: {"step": step})
    words = ("train_config/tiny_base.yaml", f"tiny_base.work={tmp_path}", "train.max_steps=4")
    assert tiny_base.tiny_base(load_config(TinyBaseConfig, [*words, f"tiny_base.out={tmp_path}/out"])) == 0
    assert bool(calls) == finished


def test_the_contrastive_loss_is_lowest_where_pairs_agree_and_all_others_differ():
    apart = torch.eye(4).repeat(2, 1)
    assert contrastive_loss(apart) < 0.01
    assert contrastive_loss(torch.ones(8, 4) / 2) == pytest.approx(np.log(7), rel=1e-5)
    assert contrastive_loss(apart[torch.tensor([0, 1, 2, 3, 1, 0, 3, 2])]) > 10
