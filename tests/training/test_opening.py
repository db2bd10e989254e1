"""A checkpoint is verified where it is opened, and nothing that its meta.json says is trusted."""

import json
import random
from pathlib import Path

import pytest

import training.checkpoint
from tests.helpers.hostile import mutated_tree
from tests.helpers.runs import sign
from training.checkpoint import META, open_checkpoint, read_meta, verify
from training.saved_model import find_base, find_saved_model, trained_from
from utils.errors import UserError
from utils.schemas import ModelSettings, SourceSettings

CONFIG = {
    "model": {"base": "tiny_svd"},
    "data": {"root": "dummy_objaverse", "meta": "svd_meta.jsonl"},
    "noise": {"P_mean": 1.0},
}
CONTENT = {
    "step": 3,
    "samples": 12,
    "window": {"samples": [[0.5, 1.0]], "grad_norms": [1.0], "wait_seconds": 0.1, "seconds": 2.0},
    "config": CONFIG,
    "engine": {"type": "plain", "num_processes": 1},
    "versions": {"torch": "2"},
    "object_fill": 0.8,
}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A checkpoint with files of the right names, but without weights in them."""
    folder = tmp_path / "run/checkpoints/step_0000003"
    for part in ("unet", "unet_ema"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
        (folder / part / "diffusion_pytorch_model.safetensors").write_bytes(random.Random(part).randbytes(5000))
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / META).write_text(json.dumps(CONTENT))
    sign(folder)
    return folder


def source(checkpoint: Path, weights: str = "ema") -> SourceSettings:
    return SourceSettings(checkpoint=str(checkpoint), weights=weights)


def test_a_flipped_bit_anywhere_is_seen_by_all_who_use_these_weights(checkpoint):
    dice = random.Random(0)
    for part, weights in (("unet", "raw"), ("unet_ema", "ema")):
        assert find_saved_model(source(checkpoint, weights)).base.unet == checkpoint / part
        for path in sorted((checkpoint / part).iterdir()):
            whole = path.read_bytes()
            for _ in range(20):
                damaged = bytearray(whole)
                damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
                path.write_bytes(damaged)
                with pytest.raises(UserError, match=f"{part}/{path.name} is not what was saved"):
                    find_saved_model(source(checkpoint, weights))
                if part == "unet":
                    with pytest.raises(UserError, match="is not what was saved"):
                        find_base(ModelSettings(base=str(checkpoint)))
            path.write_bytes(whole)
    find_base(ModelSettings(base=str(checkpoint)))


@pytest.mark.parametrize("name", ["unet/b.safetensors", "unet/x/model.bin", "unet/diffusion_pytorch_model.bin"])
def test_a_file_that_was_not_saved_with_it_is_refused_and_a_note_is_not(checkpoint, name):
    meta = read_meta(checkpoint)
    (checkpoint / "notes.txt").touch()
    (checkpoint / "unet/.DS_Store").touch()
    verify(checkpoint, meta["files"])
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).touch()
    for part in ("", "unet"):
        with pytest.raises(UserError, match=f"{name} was not saved with it"):
            verify(checkpoint, meta["files"], part)


def test_an_empty_or_partial_list_of_files_is_no_way_around(checkpoint):
    files = read_meta(checkpoint)["files"]
    for kept in [{}] + [{name: files[name] for name in files if name != left_out} for left_out in files]:
        (checkpoint / META).write_text(json.dumps(CONTENT | {"files": kept}))
        with pytest.raises(UserError, match="damaged"):
            verify(checkpoint, read_meta(checkpoint)["files"])


def test_a_file_that_did_not_change_is_read_once(checkpoint, monkeypatch):
    open_checkpoint(checkpoint, "unet")
    monkeypatch.setattr(training.checkpoint.hashlib, "file_digest", lambda *_: pytest.fail("it was read again"))
    open_checkpoint(checkpoint, "unet")


def test_odd_values_in_meta_are_one_error_or_none(checkpoint):
    whole = json.loads((checkpoint / META).read_text())
    refused = 0
    for meta in mutated_tree(whole, 600, seed=0):
        text = json.dumps(meta, ensure_ascii=True)
        (checkpoint / META).write_text(text)
        try:
            read = read_meta(checkpoint)
            assert read["step"] == 3 and type(read["samples"]) is int and read["files"]
            find_saved_model(source(checkpoint))
        except UserError as error:
            assert str(checkpoint) in str(error) or "base" in str(error)
            refused += 1
    assert refused > 300


def test_a_meta_of_another_step_is_refused_but_a_copy_under_another_name_is_not(checkpoint):
    other = checkpoint.rename(checkpoint.with_name("step_10000000"))
    with pytest.raises(UserError, match=r"meta\.json is of step 3"):
        read_meta(other)
    assert read_meta(other.rename(other.with_name("copy")))["step"] == 3


@pytest.mark.parametrize("length", [1, 2, 5])
def test_checkpoints_that_were_trained_from_each_other_in_a_circle_are_refused(checkpoint, length):
    folders = [checkpoint.with_name(f"link{number}") for number in range(length)]
    for folder, base in zip(folders, folders[1:] + folders[:1]):
        folder.mkdir()
        (folder / META).write_text(json.dumps(CONTENT | {"config": CONFIG | {"model": {"base": str(base)}}}))
        (folder / "optimizer.pt").touch()
        sign(folder)
    with pytest.raises(UserError, match="was trained from itself"):
        trained_from(folders[0])
    (folders[-1] / META).write_text(json.dumps(CONTENT | {"files": read_meta(folders[-1])["files"]}))
    assert trained_from(folders[0]).base == "tiny_svd"
