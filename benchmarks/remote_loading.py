"""Seconds to load an orbit over HTTP from this machine, with a delay that is injected into every answer.

    python benchmarks/remote_loading.py [ORBITS [DELAY_MS]]

One process serves them, and another reads orbits of 21 noisy PNGs of 576 px (about 410 kB each): as files, as one tar,
and as cached latents; and the files from the disk, for comparison.
"""

import json
import multiprocessing
import resource
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from dataset.archive_index import add_archive
from dataset.latents import CacheIndex, EncodedOrbit, LatentCache, Widths, record_digest, shard_path, write_shard
from dataset.records import Records
from dataset.sources import open_views
from dataset.views import WHITE, load_views
from tests.helpers.web import serving
from utils.schemas import DataSettings

VIEWS = 21
SIZE = 576
LATENT = SIZE // 8
FINGERPRINT = {"data.num_frames": VIEWS, "data.size_px": SIZE}


def write_data(folder: Path, count: int) -> None:
    """Write orbits as files and tars, a jsonl for each, and a cache of random latents."""
    random = np.random.default_rng(0)
    lines = []
    for number in range(count):
        (folder / str(number)).mkdir()
        paths = [f"{number}/{view:03d}.png" for view in range(VIEWS)]
        for path in paths:
            pixels = np.full((SIZE, SIZE, 4), 255, np.uint8)
            pixels[100:-100, 100:-100, :3] = random.integers(0, 256, (SIZE - 200, SIZE - 200, 3))
            Image.fromarray(pixels).save(folder / path, compress_level=1)
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            archive.add(folder / str(number), str(number))
        lines.append(json.dumps({"image_path": paths, "elevation": [10.0] * VIEWS}))
    (folder / "files.jsonl").write_text("\n".join(lines))
    archived = [add_archive(line.encode(), "files.jsonl", folder)[0] for line in lines]
    (folder / "tars.jsonl").write_text("\n".join(archived))
    orbits = []
    for record in Records(str(folder / "files.jsonl"), VIEWS):
        latents = torch.randn(1, 1, VIEWS, 4, LATENT, LATENT).half()
        embeds = torch.randn(1, 1, VIEWS, 1024).half()
        box = torch.tensor([[0, 0, SIZE, SIZE]])
        orbits.append(EncodedOrbit(latents, embeds, torch.ones(1, 3), box, record_digest(record)))
    write_shard(shard_path(folder, 0), orbits)
    index = CacheIndex(
        fingerprint=FINGERPRINT, num_records=count, orbits_per_shard=128, num_backgrounds=1, seed=0, dtype="fp16",
        encoder_dtype="fp32", object_fill=None,
    )  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index.model_dump()))


def serve(folder: Path, delay_s: float, pipe) -> None:
    """Tell the address, then, whenever asked, how many requests there were since the last time."""
    with serving() as web:
        web.files |= {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        web.delay_s = delay_s
        pipe.send(web.url)
        while pipe.recv():
            pipe.send(len(web.requests))
            web.requests.clear()


def num_requests(pipe) -> int:
    pipe.send(True)
    return pipe.recv()


def measure(name: str, pipe, count: int, load) -> None:
    """Load every orbit once, after a first one that is not counted, and print what one took."""
    load(0)
    num_requests(pipe)
    started, used = time.perf_counter(), cpu_s()
    for number in range(1, count):
        load(number)
    seconds, cpu = time.perf_counter() - started, cpu_s() - used
    requests = num_requests(pipe) / (count - 1)
    print(f"| {name} | {requests:g} | {seconds / (count - 1):.2f} | {cpu / (count - 1):.2f} |", flush=True)


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    count = int(sys.argv[1]) + 1 if len(sys.argv) > 1 else 9
    delay_ms = float(sys.argv[2]) if len(sys.argv) > 2 else 20
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text, "data")
        folder.mkdir()
        write_data(folder, count)
        pipe, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        context.Process(target=serve, args=(folder, delay_ms / 1000, other), daemon=True).start()
        address = pipe.recv()
        local = DataSettings(root=str(folder), meta="", size_px=SIZE, local_cache=f"{text}/local")
        far = local.model_copy(update={"root": address, "cache": address})
        print(f"| loopback HTTP, {delay_ms:g} ms injected | requests | seconds | CPU seconds |")
        print("|---|--:|--:|--:|")
        for name, meta, data in (
            ("21 files from the disk", "files", local),
            ("21 files", "files", far),
            ("one tar", "tars", far),
        ):
            records = Records(f"{data.root}/{meta}.jsonl", VIEWS, data.local_cache)
            measure(name, pipe, count, lambda n, records=records, data=data: load_views(records[n], data, 0, WHITE))
        cache = LatentCache(far, FINGERPRINT, count, Widths(4, 1024))
        tars = Records(f"{address}/tars.jsonl", VIEWS, far.local_cache)

        def latents(number: int) -> None:
            cache.views(number, tars[number], 0, 0.0)

        def latents_and_input_view(number: int) -> None:
            latents(number)
            list(open_views(tars[number], far, [0]))

        measure("cached latents, and the input view from a tar", pipe, count, latents_and_input_view)
        measure("cached latents alone", pipe, count, latents)


if __name__ == "__main__":
    main()
