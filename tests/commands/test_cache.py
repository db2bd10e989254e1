"""Training from a cache is training from the images."""

import json
import math
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from commands.cache import cache
from commands.train import encode, train
from dataset.images import to_float
from dataset.latents import INDEX, EncodedOrbit, fault_of_shard, shard_path
from dataset.order import record_index
from dataset.records import Records
from dataset.views import CachedViews, OrbitViews, collate, draw_view, load_views
from models.objective import denoising_loss
from tests.helpers.hostile_state import ODD_TENSORS
from tests.helpers.launch import ROOT
from tests.helpers.runs import metrics
from training.feeding import noises_input_view, open_cache
from utils.config import load_config, to_json
from utils.errors import UserError
from utils.schemas import CacheConfig

OF_SVD = "model.base=tiny_svd"  # what the fixture `svd` has loaded
CIRCLES = ("data.num_frames=7", "data.object_fill=0.8")  # three circles an orbit, each with a crop of its own
TENSORS = ("latents", "image_embeds", "background")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def few_records(tmp_path_factory):
    """A jsonl of three of the dummy dataset's orbits."""
    path = tmp_path_factory.mktemp("records") / "svd_meta.jsonl"
    with open(ROOT / "svd_meta.jsonl") as lines:
        path.write_text("".join(next(lines) for _ in range(3)))
    return f"data.meta={path}"


@pytest.fixture
def tiny_config(tiny_config):
    """The small base, and all 21 views."""
    return lambda *words: tiny_config("data.num_frames=21", *words)


@pytest.fixture
def make_cache(tiny_config, few_records, tmp_path):
    """Encode those orbits under some settings, and return the config to train with."""

    def make(*words: str, out: str = "cache", store: tuple[str, ...] = ("cache.dtype=fp32",)):
        settings = to_json(tiny_config(few_records, *words))
        path = tmp_path / "cache.yaml"
        path.write_text(json.dumps(settings))
        cache(load_config(CacheConfig, [str(path), f"cache.out={tmp_path / out}", "cache.orbits_per_shard=2", *store]))
        return tiny_config(few_records, *words, f"data.cache={tmp_path / out}")

    return make


def cached_views(cfg) -> CachedViews:
    records = Records(cfg.data.meta, cfg.data.num_frames)
    return CachedViews(records, cfg.data, 0, open_cache(cfg, len(records)), noises_input_view(cfg.noise))


def losses(views, svd, numbers, noise):
    latents, cond, draws = encode(collate([views[n] for n in numbers]), svd.encoders, 0, noise, CPU)
    with torch.no_grad():
        return denoising_loss(svd.unet, latents, cond, draws.sigma, draws.noise)


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-3)])
def test_the_loss_of_a_sample_from_the_cache_is_that_from_its_images(make_cache, svd, dtype, tolerance):
    cfg = make_cache(OF_SVD, *CIRCLES, store=(f"cache.dtype={dtype}",))
    fresh = OrbitViews(Records(cfg.data.meta, 7), cfg.data, 0)
    numbers = range(6)  # two epochs
    assert len({n: fresh[n].place for n in numbers}.values()) == 6
    expected = losses(fresh, svd, numbers, cfg.noise)
    found = losses(cached_views(cfg), svd, numbers, cfg.noise)
    assert ((found - expected) / expected).abs().max() < tolerance


def test_a_sample_gets_one_of_the_backgrounds_that_its_record_was_encoded_with(make_cache, svd):
    cfg = make_cache(OF_SVD, "data.background=random", store=("cache.dtype=fp32", "cache.num_backgrounds=2"))
    views = cached_views(cfg)
    seen = set()
    for n in range(8):
        index = record_index(0, n, 3)
        start, colour = draw_view(0, n, 21)
        background = views.cache.views(index, views.records[index], start, float(colour[0])).background
        pixels, _ = load_views(views.records[index], cfg.data, start, background)
        orbit = views[n]
        assert torch.equal(orbit.pixels[0], pixels[0])
        pixels = to_float(pixels)
        assert torch.allclose(svd.encoders.modes(pixels[None])[0], orbit.latents, atol=1e-4)
        assert torch.allclose(svd.encoders.image_embeds(pixels[:1])[0, 0], orbit.image_embeds, atol=1e-4)
        seen.add((index, tuple(background.tolist())))
    assert 4 <= len(seen) <= 6  # three records on two colours each


def test_a_cache_trains_without_the_images_where_the_noise_cannot_be_seen(make_cache, tmp_path):
    faint = ("noise.cond_P_std=0", f"noise.cond_P_mean={math.log(1e-5)}", "train.max_steps=2")
    cfg = make_cache(*faint)
    train(tiny_cfg_of(cfg, tmp_path / "images", cache=None))
    train(tiny_cfg_of(cfg, tmp_path / "cached", root="nowhere"))
    rows = [metrics(tmp_path / name / "tiny_cpu", ["train/loss"]) for name in ("images", "cached")]
    for fresh, cached in zip(*rows, strict=True):
        assert cached["train/loss"] == pytest.approx(fresh["train/loss"], rel=1e-4)


def tiny_cfg_of(cfg, folder: Path, **data):
    run = cfg.run.model_copy(update={"dir": str(folder)})
    return cfg.model_copy(update={"run": run, "data": cfg.data.model_copy(update=data)})


def test_what_is_missing_or_damaged_is_encoded_again_and_nothing_else(make_cache, tmp_path, capsys):
    cfg = make_cache()
    folder = tmp_path / "cache"
    first = shard_path(folder, 0)
    second = shard_path(folder, 1)
    whole = first.read_bytes()
    damaged = bytearray(whole)
    damaged[-100] ^= 1
    first.write_bytes(damaged)
    time = second.stat().st_mtime_ns
    views = cached_views(cfg)
    with pytest.raises(UserError, match=r"shard_000000.safetensors: is damaged.*main.py cache"):
        [views[n] for n in range(6)]
    make_cache()
    assert "shard_000000.safetensors is encoded anew" in capsys.readouterr().out
    assert first.read_bytes() == whole
    assert second.stat().st_mtime_ns == time
    first.unlink()
    with pytest.raises(UserError, match="1 of 2 shards are missing"):
        cached_views(cfg)


def test_every_flipped_byte_is_seen_where_it_is_read(make_cache, tmp_path):
    cfg = make_cache()
    path = shard_path(tmp_path / "cache", 1)
    whole = path.read_bytes()
    records = list(Records(cfg.data.meta, 21))
    cache = cached_views(cfg).cache
    expected = cache.views(2, records[2], 5, 0.0)
    random = torch.Generator().manual_seed(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[int(torch.randint(len(whole), (), generator=random))] ^= 1 << int(
            torch.randint(8, (), generator=random)
        )
        path.write_bytes(damaged)
        try:
            found = cache.views(2, records[2], 5, 0.0)
        except UserError as error:
            assert "shard_000001" in str(error)
        else:  # a bit that this sample does not read
            assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in TENSORS)
            assert found.box == expected.box


def test_a_shard_of_another_form_is_refused_by_training_and_encoded_anew_by_cache_whoever_signed_it(
    make_cache, tmp_path
):
    cfg = make_cache()
    path = shard_path(tmp_path / "cache", 1)
    whole = load(path.read_bytes())  # not mapped from the file that is overwritten
    records = list(Records(cfg.data.meta, 21))
    cache = cached_views(cfg).cache
    assert fault_of_shard(path, cache.index, records[2:], cache.widths) is None
    changes = ODD_TENSORS | {
        "a channel less": lambda t: t.narrow(-3, 0, t.shape[-3] - 1),
        "a column more": lambda t: torch.cat([t, t[..., :1]], dim=-1),
    }
    for (name, tensor), (change, mutate) in product(whole.items(), changes.items()):
        try:
            mutant = whole | {name: mutate(tensor).contiguous()}
            if (mutant[name].dtype, mutant[name].shape) == (tensor.dtype, tensor.shape):
                continue
            path.write_bytes(save(mutant if name.endswith("checksums") else signed(mutant)))
        except (RuntimeError, TypeError, ValueError, SafetensorError, IndexError, KeyError, NotImplementedError):
            continue  # what cannot be written, or not be signed
        assert fault_of_shard(path, cache.index, records[2:], cache.widths) is not None, (name, change)
        with pytest.raises(UserError, match="shard_000001"):
            cache.views(2, records[2], 0, 0.0)


def signed(shard: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A shard of one record with the checksums of what it holds."""
    orbit = EncodedOrbit(
        **{name.partition("/")[2]: tensor for name, tensor in shard.items() if "checksums" not in name}
    )
    return {f"0/{name}": tensor for name, tensor in orbit.tensors().items()}


def test_processes_divide_the_shards(make_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    cfg = make_cache()
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [INDEX, "shard_000001.safetensors"]
    monkeypatch.setenv("RANK", "0")
    make_cache()
    cached_views(cfg)[0]


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("data.size_px=64", "data.size_px"),
        ("data.num_frames=7", "data.num_frames"),
        ("data.object_fill=0.5", "data.object_fill"),
        ("data.background=random", "data.background"),
    ],
)
def test_a_run_that_would_encode_otherwise_is_refused_with_what_differs(
    make_cache, tiny_config, few_records, tmp_path, word, part
):
    make_cache()
    cfg = tiny_config(few_records, f"data.cache={tmp_path / 'cache'}", word)
    with pytest.raises(UserError, match=f"another {part}"):
        cached_views(cfg)


def test_records_that_changed_are_refused(make_cache, tiny_config, tmp_path):
    cfg = make_cache()
    lines = Path(cfg.data.meta).read_text().splitlines()
    (tmp_path / "swapped.jsonl").write_text("\n".join([lines[1], lines[0], lines[2]]))
    (tmp_path / "fewer.jsonl").write_text("\n".join(lines[:2]))
    with pytest.raises(UserError, match=r"swapped\.jsonl:1 names"):
        views = cached_views(tiny_cfg_of(cfg, tmp_path, meta=str(tmp_path / "swapped.jsonl")))
        [views[n] for n in range(3)]
    with pytest.raises(UserError, match=r"holds 3 records, data\.meta has 2"):
        cached_views(tiny_cfg_of(cfg, tmp_path, meta=str(tmp_path / "fewer.jsonl")))


def test_other_weights_of_the_vae_are_another_cache(make_cache, small_base, tmp_path):
    shutil.copytree(small_base, tmp_path / "base")
    weights = tmp_path / "base/vae/diffusion_pytorch_model.safetensors"
    cfg = make_cache(f"model.base={tmp_path / 'base'}")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match="another VAE"):
        cached_views(cfg)
