"""A cache of latents at an address gives what the same cache in a folder gives, and only what a sample needs is read."""

import json

import pytest
import torch

import dataset.shards
from dataset.latents import CacheIndex, EncodedOrbit, LatentCache, Widths, record_digest, shard_path, write_shard
from dataset.records import OrbitRecord
from dataset.shards import merged
from tests.helpers.web import serving
from utils import retries
from utils.errors import UserError
from utils.schemas import DataSettings

VIEWS = 4
SIDE = 24  # a latent of 4 x 24 x 24 numbers is no small part of a shard
COUNT = 5


def record(number: int, num_views: int) -> OrbitRecord:
    paths = tuple(f"{number}/{view}.png" for view in range(num_views))
    return OrbitRecord(str(number), paths, (0.0,) * num_views, f"meta.jsonl:{number + 1}")


RECORDS = [record(number, VIEWS * (1 + number % 2)) for number in range(COUNT)]

WIDTHS = Widths(latent_channels=4, image_embeds=32)
FINGERPRINT = {"data.num_frames": VIEWS, "data.size_px": 8 * SIDE}


def write_cache(folder, dtype: torch.dtype, num_backgrounds: int) -> None:
    """Write random numbers in two shards. Every second record has two circles."""
    random = torch.Generator().manual_seed(0)
    orbits = []
    for found in RECORDS:
        shape = (num_backgrounds, len(found.image_paths) // VIEWS, VIEWS)
        latents = torch.randn(*shape, 4, SIDE, SIDE, generator=random).to(dtype)
        embeds = torch.randn(*shape, 32, generator=random).to(dtype)
        corners = torch.randint(9, (shape[1], 2), generator=random)
        boxes = torch.cat([corners, corners + 8], dim=1)
        orbits.append(
            EncodedOrbit(latents, embeds, torch.rand(num_backgrounds, 3, generator=random), boxes, record_digest(found))
        )
    index = CacheIndex(
        fingerprint=FINGERPRINT, num_records=COUNT, orbits_per_shard=3, num_backgrounds=num_backgrounds, seed=0,
        dtype="fp16" if dtype == torch.float16 else "fp32", encoder_dtype="fp32", object_fill=None,
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    for shard in range(2):
        write_shard(shard_path(folder, shard), [orbits[number] for number in index.records_of(shard)])
    (folder / "index.json").write_text(json.dumps(index.model_dump()))


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(dataset.shards, "_paths", {})
    with serving() as server:
        yield server


@pytest.fixture
def opened(web, tmp_path):
    """A function that gives a cache from its folder, and from the address where a server has it."""

    def opened(dtype=torch.float16, num_backgrounds=1, kind="http"):
        write_cache(tmp_path / "cache", dtype, num_backgrounds)
        files = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
        web.files |= {f"cache/{name}": content for name, content in files.items()}
        if kind == "memory":
            import fsspec

            fsspec.filesystem("memory").pipe({f"/cache/{name}": content for name, content in files.items()})
        url = f"{web.url}/cache" if kind == "http" else "memory://cache"
        common = {"root": "nowhere", "meta": "nowhere", "local_cache": str(tmp_path / "local")}
        return [
            LatentCache(DataSettings(cache=place, **common), FINGERPRINT, COUNT, WIDTHS)
            for place in (str(tmp_path / "cache"), url)
        ]

    return opened


def views_of(cache, number, start=1, choice=0.6):
    return cache.views(number, RECORDS[number], start, choice)


@pytest.mark.parametrize("kind", ["http", "memory"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("num_backgrounds", [1, 3])
def test_an_address_gives_what_a_folder_gives(opened, kind, dtype, num_backgrounds):
    local, far = opened(dtype, num_backgrounds, kind)
    for number in range(COUNT):
        for start in range(0, len(RECORDS[number].image_paths), 3):
            for choice in (0.0, 0.5, 0.99):
                expected = views_of(local, number, start, choice)
                found = views_of(far, number, start, choice)
                assert found.box == expected.box and found.background.equal(expected.background)
                assert found.latents.equal(expected.latents) and found.image_embeds.equal(expected.image_embeds)


def test_a_sample_takes_one_request_of_just_its_latents_and_embeddings(opened, web):
    _, far = opened()
    views_of(far, 0)
    web.requests.clear()
    web.sent.clear()
    for number in (0, 2):
        views_of(far, number)
    size = VIEWS * (4 * SIDE * SIDE + 32) * 2
    assert len(web.requests) == 2 and web.sent["cache/shard_000000.safetensors"] == 2 * size


def test_the_head_of_a_shard_is_fetched_once_for_all_processes_and_runs(opened, web, monkeypatch):
    _, far = opened()
    views_of(far, 4)
    monkeypatch.setattr(dataset.shards, "_paths", {})  # as in another process
    web.requests.clear()
    views_of(far, 4)
    assert web.requests[0][1] == "bytes=0-0" and len(web.requests) == 2


def test_a_shard_that_was_written_anew_is_read_anew_by_the_next_process(opened, web, monkeypatch):
    _, far = opened()
    views_of(far, 4)
    before = web.files["cache/shard_000001.safetensors"]
    opened(num_backgrounds=1)
    web.files["cache/shard_000001.safetensors"] = before[:-100] + bytes([before[-100] ^ 1]) + before[-99:]
    monkeypatch.setattr(dataset.shards, "_paths", {})
    with pytest.raises(UserError, match=r"cache/shard_000001\.safetensors: (is damaged|holds other views)"):
        [views_of(far, number) for number in (3, 4)]


def test_missing_shards_and_other_runs_are_refused_before_the_first_sample(opened, web):
    import fsspec

    _, far = opened()
    with pytest.raises(UserError, match=r"was encoded with another data\.size_px"):
        LatentCache(far.data, FINGERPRINT | {"data.size_px": 9}, COUNT, WIDTHS)
    del web.files["cache/shard_000001.safetensors"]
    with pytest.raises(UserError, match=r"cache/shard_000001\.safetensors: cannot be read: no such file"):
        LatentCache(far.data, FINGERPRINT, COUNT, WIDTHS)
    _, far = opened(kind="memory")
    fsspec.filesystem("memory").rm("/cache/shard_000000.safetensors")
    with pytest.raises(UserError, match=r"^memory://cache: 1 of 2 shards are missing"):
        LatentCache(far.data, FINGERPRINT, COUNT, WIDTHS)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8 + b"{}", (2).to_bytes(8, "little") + b"[]", (9).to_bytes(8, "little") + b'{"a": {}}']
)
def test_what_is_no_shard_is_one_error(opened, web, content):
    _, far = opened()
    web.files["cache/shard_000000.safetensors"] = content
    with pytest.raises(UserError, match=r"shard_000000\.safetensors: (is no (safetensors file|shard)|cannot be read)"):
        views_of(far, 0)


def test_offsets_outside_the_file_are_refused(opened, web):
    _, far = opened()
    name = "cache/shard_000000.safetensors"
    for change in (b'"data_offsets":[0,', b'"data_offsets":[9,'), (b'"dtype":"F16"', b'"dtype":"F64"'):
        opened()
        assert change[0] in web.files[name]
        web.files[name] = web.files[name].replace(*change)
        with pytest.raises(UserError, match="its header does not say where"):
            views_of(far, 0)


def test_spans_that_lie_near_each_other_are_one():
    far = dataset.shards.NEAR_BYTES
    assert merged([(5, 9), (0, 3), (9 + far, 10 + far)]) == [(0, 10 + far)]
    assert merged([(0, 3), (4 + far, 5 + far)]) == [(0, 3), (4 + far, 5 + far)]
    assert merged([]) == []
