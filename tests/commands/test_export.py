"""Stock diffusers loads and drives an exported folder, and our own commands take it as a base and as a model."""

import json
import logging
import re
import shutil
from pathlib import Path
from random import Random

import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file

import main
import training.saved_model
from dataset.inputs import input_view
from models.edm import denoise
from models.sampling import sample_orbits
from models.svd import Base, Svd, find_parts, load_svd, load_unet, save_unet
from tests.helpers.runs import sign
from training.checkpoint import checksums, load_unet_weights
from training.launch import launched_accelerator
from training.saved_model import RECIPE, find_base, find_saved_model, load_saved_model
from utils.errors import UserError
from utils.schemas import ModelSettings, SamplingSettings, SourceSettings
from utils.video import to_uint8

ELEVATION = 21.0


def export(run, out: Path, *words) -> int:
    return main.main(["export", str(run), f"export.out={out}", *words])


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "svd-mv"
    assert export(trained_run, out) == 0
    return out


def loaded(folder: Path) -> Svd:
    return load_saved_model(find_saved_model(SourceSettings(checkpoint=str(folder))), launched_accelerator())


@pytest.mark.parametrize("strength", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_the_stock_pipeline_with_motion_bucket_id_as_elevation_gives_our_samplers_frames(
    trained_run, strength, tmp_path
):
    """From the same noise and view a user of diffusers gets what `sample` gives with linear guidance."""
    shutil.copytree(trained_run, tmp_path / "run")
    average = tmp_path / "run/checkpoints/step_0000001/unet_ema"
    weights = load_unet_weights(average)
    weights["add_embedding.linear_2.weight"] *= 100  # after one step the elevation hardly acts
    save_file(weights, average / "diffusion_pytorch_model.safetensors")
    sign(average.parent)
    assert export(tmp_path / "run", tmp_path / "exported") == 0
    exported = tmp_path / "exported"
    sampling = SamplingSettings(num_inference_steps=4, guidance="linear", guidance_max=3.0, noise_aug_strength=strength)
    svd = loaded(exported)
    view = input_view(Path("dummy_objaverse/017/003.png"), 0.8, 32)
    view = torch.from_numpy(to_uint8(view)).permute(0, 3, 1, 2) / 127.5 - 1  # the pipeline takes an 8-bit picture
    picture = Image.fromarray(to_uint8(view)[0])
    random = torch.Generator().manual_seed(3)
    state = random.get_state()
    cond_noise = torch.randn(view.shape, generator=random)  # the pipeline's first draw
    noise = torch.randn(1, *svd.encoders.latent_shape(21, 32), generator=random)
    cond = svd.encoders.condition(view, torch.tensor([ELEVATION]), torch.tensor([strength]), cond_noise)
    views = sample_orbits(svd.unet, svd.encoders, svd.sigma_range, cond, noise, sampling)[0]
    ours = views / 2 + 0.5
    pipeline = StableVideoDiffusionPipeline.from_pretrained(exported)
    pipeline.set_progress_bar_config(disable=True)
    random.set_state(state)
    frames = pipeline(
        picture, height=32, width=32, num_frames=21, num_inference_steps=4, decode_chunk_size=7, fps=7,
        motion_bucket_id=ELEVATION, noise_aug_strength=strength, min_guidance_scale=1.0, max_guidance_scale=3.0,
        generator=random, output_type="pt",
    ).frames[0]  # fmt: skip
    assert (frames - ours).abs().max() < 1e-4
    random.set_state(state)
    other = pipeline(
        picture, height=32, width=32, num_frames=21, num_inference_steps=4, decode_chunk_size=7, fps=7,
        motion_bucket_id=-5, noise_aug_strength=strength, min_guidance_scale=1.0, max_guidance_scale=3.0,
        generator=random, output_type="pt",
    ).frames[0]  # fmt: skip
    assert (frames - other).abs().max() > 1e-3, "the elevation matters"


LAYOUTS = [
    ("noise_aug_strength", "elevation_deg"),
    ("fps_id", "motion_bucket_id", "noise_aug_strength", "elevation_deg"),
    ("elevation_deg",),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=len)
@torch.no_grad()
def test_a_model_of_any_layout_computes_the_same_after_its_export(trained_run, layout, svd, tmp_path, random):
    """The UNets agree for all values of the ids that the model embeds. The stock ids that it does not embed have no effect."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(trained_run / "checkpoints/step_0000001", checkpoint)
    meta = json.loads((checkpoint / "meta.json").read_text())
    meta["config"]["model"]["added_time_ids"] = layout
    (checkpoint / "meta.json").write_text(json.dumps(meta))
    source = find_saved_model(SourceSettings(checkpoint=str(checkpoint)))
    unet = load_unet(source.base, source.model)
    unet.add_embedding.linear_1.weight.data.normal_(0, 0.05, generator=random)  # no column is zero
    for part in ("unet", "unet_ema"):
        shutil.rmtree(checkpoint / part)
        save_unet(unet, layout, unet.state_dict(), checkpoint / part)
    sign(checkpoint)
    assert export(checkpoint, tmp_path / "out") == 0
    stock = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "out").unet
    noised = torch.randn(1, *svd.encoders.latent_shape(3, 32), generator=random)
    sigma = torch.tensor([2.0])
    cond = svd.encoders.condition(
        torch.zeros(1, 3, 32, 32), torch.tensor([9.0]), torch.tensor([0.1]), torch.zeros(1, 3, 32, 32)
    )
    for elevation, strength in ((9.0, 0.1), (-5.0, 0.5)):
        given = {"elevation_deg": elevation, "noise_aug_strength": strength, "fps_id": 6.0, "motion_bucket_id": 127.0}
        ours = denoise(unet, noised, sigma, _with_ids(cond, [given[name] for name in layout]))
        theirs = denoise(stock, noised, sigma, _with_ids(cond, [6.0, elevation, strength]))
        assert (ours - theirs).abs().max() < 1e-4 * ours.abs().max()


def _with_ids(cond, ids: list[float]):
    return type(cond)(cond.latents, cond.image_embeds, torch.tensor([ids]))


def test_an_exported_folder_is_a_base_with_exactly_the_trained_weights(
    trained_run, exported, tiny_config, no_prediction
):
    trained = load_unet_weights(trained_run / "checkpoints/step_0000001/unet_ema")
    cfg = tiny_config(f"model.base={exported}")
    again = load_svd(find_parts(cfg.model), cfg.model).unet.state_dict()
    assert trained.keys() == again.keys()
    assert all(torch.equal(trained[name], again[name]) for name in trained)
    assert (again["conv_in.weight"] != load_unet_weights(Path("tiny_svd/unet"))["conv_in.weight"]).any()
    assert main.main(["check", "train_config/tiny_cpu.yaml", f"model.base={exported}"]) == 0


def test_neither_an_export_nor_the_shipped_base_names_a_folder_of_the_machine_that_wrote_it(exported):
    for folder in (exported, Path("tiny_svd")):
        texts = [path.read_text() for path in folder.rglob("*.json")]
        assert len(texts) > 5
        assert all(json.loads(text).get("_name_or_path", "") == "" for text in texts), folder


def test_raw_weights_are_exported_when_asked_for(trained_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    raw = run / "checkpoints/step_0000001/unet"
    unet = load_unet(Base(raw, raw, None), find_saved_model(SourceSettings(checkpoint=str(run))).model)
    save_unet(
        unet, ("fps_id", "elevation_deg", "noise_aug_strength"), {k: v + 1 for k, v in unet.state_dict().items()}, raw
    )
    sign(raw.parent)
    assert export(run, tmp_path / "raw", "export.weights=raw") == 0
    assert export(run, tmp_path / "ema") == 0
    raw, ema = (load_unet_weights(tmp_path / name / "unet") for name in ("raw", "ema"))
    torch.testing.assert_close(raw["conv_in.bias"], ema["conv_in.bias"] + 1, atol=1e-3, rtol=0)


def test_sampling_from_the_export_is_sampling_from_the_run(trained_run, exported, tmp_path):
    words = ("sample.image=dummy_objaverse/017/003.png", "sample.elevation_deg=12", "sample.num_inference_steps=2")
    assert export(exported, tmp_path / "again") == 0, "an export of the export"
    assert "base_model: tiny_svd" in (tmp_path / "again/README.md").read_text()
    for source, name in ((trained_run, "run"), (exported, "export")):
        assert main.main(["sample", str(source), *words, f"sample.out={tmp_path}/{name}"]) == 0
    for view in ("000.png", "011.png", "transforms.json"):
        run, export_ = (tmp_path / name / "003/seed_0" / view for name in ("run", "export"))
        assert run.read_bytes() == export_.read_bytes()


def test_the_folder_names_no_place_of_this_machine(trained_run, exported, tmp_path):
    for path in exported.rglob("*"):
        if path.suffix in (".json", ".md"):
            text = path.read_text()
            assert str(tmp_path.parent.parent) not in text and str(trained_run.parent) not in text, path
            assert str(Path.cwd()) not in text, path


def test_a_base_that_lay_elsewhere_is_named_without_its_folder(trained_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    meta = run / "checkpoints/step_0000001/meta.json"
    meta.write_text(meta.read_text().replace('"tiny_svd"', '"/scratch/alice/svd-xt"'))
    assert export(run, tmp_path / "out", "export.base=tiny_svd") == 0
    texts = [(tmp_path / "out" / name).read_text() for name in ("README.md", RECIPE)]
    assert all("svd-xt" in text and "alice" not in text for text in texts)


def test_the_cards_ten_lines_run_and_its_tables_are_the_runs(exported, trained_run, tmp_path, monkeypatch):
    card = (exported / "README.md").read_text()
    assert "| `train.max_steps` | 1 |" in card and '| `model.base` | "tiny_svd" |' in card and "Not evaluated." in card
    code = re.search(r"```python\n(.*?)```", card, re.S)[1]
    calls = [line for line in code.splitlines() if not line.startswith(("import", "from")) and line]
    assert len(calls) <= 10
    image = Image.open(Path("dummy_objaverse/017/003.png").resolve()).convert("RGB")
    image.save(tmp_path / "object.png")
    (tmp_path / exported.name).symlink_to(exported)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("decode_chunk_size=7", "decode_chunk_size=7, num_inference_steps=2"), {})
    assert Image.open(tmp_path / "orbit.gif").n_frames == 21


def test_an_evaluations_numbers_go_into_the_card(trained_run, tmp_path, capsys):
    report = {
        "step": 1,
        "weights": "ema",
        "unet": checksums(trained_run / "checkpoints/step_0000001/unet_ema"),
        "summary": {"sample": {"psnr": {"novel": 17.25, "all": 18}}},
        "num_objects": 50,
        "settings": {"views": "novel", "protocol": "gso_svd_mv"},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(report))
    assert export(trained_run, tmp_path / "out", f"export.metrics={tmp_path}/metrics.json") == 0
    card = (tmp_path / "out/README.md").read_text()
    assert "50 objects, novel views, protocol gso_svd_mv:" in card and "| sample | 17.25 |" in card
    assert export(trained_run, tmp_path / "other", f"export.metrics={tmp_path}/none.json") == 2
    for wrong, fragment in (
        ({"step": 2}, "weights of step 2, these are"),
        ({"unet": {}}, "measured on another UNet than that of "),
        ({"settings": {}}, "settings.views: missing"),
    ):
        (tmp_path / "metrics.json").write_text(json.dumps(report | wrong))
        assert export(trained_run, tmp_path / "other", f"export.metrics={tmp_path}/metrics.json") == 2
        assert fragment in capsys.readouterr().err and not (tmp_path / "other").exists()
    assert export(trained_run, tmp_path / "other", f"export.metrics={tmp_path}/none.json") == 2
    assert "none.json: cannot be read" in capsys.readouterr().err and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("kind", "fragment"),
    [
        ("stock", "that is no multi-view model"),
        ("epsilon", "SVD predicts v"),
        ("damaged", "scheduler: cannot be loaded"),
    ],
)
def test_what_is_no_multi_view_svd_is_not_exported(exported, tmp_path, capsys, kind, fragment):
    model = tmp_path / "model"
    shutil.copytree(exported, model)
    scheduler = model / "scheduler/scheduler_config.json"
    recipe = model / "svd_mv_recipe.json"
    if kind == "stock":
        recipe.write_text(recipe.read_text().replace('"elevation_deg"', '"motion_bucket_id"'))
    elif kind == "epsilon":
        scheduler.write_text(scheduler.read_text().replace("v_prediction", "epsilon"))
    else:
        scheduler.write_text("{")
    sign(model)
    assert export(model, tmp_path / "out") == 2
    assert fragment in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_flipped_bit_of_an_export_is_seen_by_all_who_use_it(exported, trained_run, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(exported, model)
    find_saved_model(SourceSettings(checkpoint=str(model)))
    dice = Random(0)
    for path in sorted(model.glob("*/*")):
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        name = path.relative_to(model)
        for use in (
            lambda: find_saved_model(SourceSettings(checkpoint=str(model))),
            lambda: find_saved_model(SourceSettings(checkpoint=str(trained_run), base=str(model))),
            lambda: find_base(ModelSettings(base=str(model))),
        ):
            with pytest.raises(UserError, match=f"{name} is not what was saved .*export it again"):
                use()
        path.write_bytes(whole)
    (model / "README.md").write_text("a better card")
    find_base(ModelSettings(base=str(model)))
    (model / "vae/model.bin").touch()
    with pytest.raises(UserError, match=r"vae/model\.bin was not saved with it"):
        find_base(ModelSettings(base=str(model)))


def test_an_export_without_checksums_is_used_and_said_so_once(exported, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(training.saved_model, "log", logging.getLogger("of this test"))
    model = tmp_path / "model"
    shutil.copytree(exported, model)
    recipe = json.loads((model / RECIPE).read_text())
    for files, used in ((None, True), ({}, False), ({"unet/config.json": "0" * 64}, False)):
        (model / RECIPE).write_text(json.dumps({**recipe, "files": files}))
        if used:
            find_saved_model(SourceSettings(checkpoint=str(model)))
            [record] = caplog.records
            assert record.getMessage().startswith(f"{model} was exported by an earlier version, without checksums")
        else:
            with pytest.raises(UserError):
                find_saved_model(SourceSettings(checkpoint=str(model)))


def test_what_is_there_already_is_not_overwritten(trained_run, exported, tmp_path, capsys):
    assert export(trained_run, exported) == 2
    assert "is there already" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert export(trained_run, tmp_path / "file/out") == 2
    assert "cannot be written" in capsys.readouterr().err
    assert export(exported, tmp_path / "out", "export.weights=raw") == 2
    assert "holds the ema weights only" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(trained_run, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(StableVideoDiffusionPipeline, "save_pretrained", full)
    assert main.main(["export", str(trained_run), f"export.out={tmp_path}/out"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path}/out: cannot be written: ") and "No space left" in error
    assert not list(tmp_path.iterdir())
