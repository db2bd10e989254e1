"""`main.py render`: 3D assets -> orbits, their cameras, and the jsonl line that `train` reads. Divided and killed at will."""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from tqdm import tqdm

from rendering.blender import renderer as blender
from rendering.camera import FOV_DEG, orbit_cameras
from rendering.failure import Failure
from rendering.filters import why_rejected
from rendering.job import Job
from rendering.light import environment_for, fingerprint, list_hdris, object_seed
from rendering.queue.assets import Asset, AssetFolder, share_of
from rendering.queue.objaverse import ObjaverseList
from rendering.queue.output import CAMERAS, INDEX, Output
from rendering.queue.worker import Limits, Stopped, run_job
from rendering.quick import renderer as quick
from rendering.safety.asset import check_asset
from rendering.sheets import strip, write_sheets
from utils.config import to_json
from utils.errors import UserError
from utils.schemas_render import RenderConfig, RenderSettings

RENDERERS: dict[str, ModuleType] = {"quick": quick, "blender": blender}
# What makes the pictures, with the filter section and the maps in `hdris`: one folder is one setting of these.
ELEVATIONS = ("elevation_min_deg", "elevation_max_deg")
FIXED_KEYS = ("renderer", "num_views", "size_px", "num_samples", *ELEVATIONS, "seed", "format")
SAVE_OPTIONS = {"png": {"compress_level": 6}, "webp": {"lossless": True, "exact": True, "quality": 50, "method": 4}}
ELEVATION_STREAM = 0  # of an object's seed; light.py takes another
RENDERED, ELSEWHERE = "rendered", "elsewhere"


def render(cfg: RenderConfig) -> int:
    """-> exit code: 0, 1 if an asset of this share failed (filtered ones did not), 128 + n after signal n."""
    render = cfg.render
    command = find_renderer(render).command(render.executable)
    hdris = list_hdris(Path(render.hdris).expanduser()) if render.hdris else None
    source = open_assets(render)
    mine = share_of(os.environ).of(source.assets)
    with Output(Path(render.out).expanduser().absolute()) as output, StopSignals() as stop:
        check_settings(cfg, hdris, output)
        if render.retry_failures:
            output.forget_failures(asset.id for asset in mine)
        rendered, failed = output.finished()
        todo = [asset for asset in mine if asset.id not in rendered and asset.id not in failed]
        work = Work(cfg, command, hdris, source, output, stop.requested)
        started = time.monotonic()
        try:
            counts = follow(each_result(todo, work, stop), len(mine), len(mine) - len(todo))
        except Stopped:
            if stop.number is None:
                raise
            print(f"stopped by {signal.Signals(stop.number).name}; the same command goes on from here")
            return 128 + stop.number
        complete = output.tidy(asset.id for asset in source.assets)
        if render.sheet_rows:
            write_sheets(output, render.sheet_rows)
        report(output, mine, counts, time.monotonic() - started, complete)
        _, failed = output.finished()
        return int(bool(counts["download"]) or any(failed.get(asset.id, "filtered") != "filtered" for asset in mine))


def find_renderer(render: RenderSettings) -> ModuleType:
    if render.renderer not in RENDERERS:
        raise UserError(f"render.renderer: no '{render.renderer}'; the renderers are {', '.join(RENDERERS)}")
    return RENDERERS[render.renderer]


def open_assets(render: RenderSettings) -> AssetFolder | ObjaverseList:
    path = Path(render.assets).expanduser()
    if path.suffix.lower() == ".txt" and path.is_file():
        return ObjaverseList(path, render.licenses)
    if not path.is_dir():
        raise UserError(f"render.assets: {path} is neither a folder nor a .txt file")
    if render.licenses:
        raise UserError("render.licenses: the licences of a folder's files are not known; it is for Objaverse uids")
    return AssetFolder(path)


def check_settings(cfg: RenderConfig, hdris: tuple[Path, ...] | None, output: Output) -> None:
    """Note in OUT/render.json what makes the pictures, and which are kept. Raises UserError if it says otherwise."""
    given = to_json(cfg)
    now = {f"render.{key}": given["render"][key] for key in FIXED_KEYS}
    now["render.hdris"] = fingerprint(hdris) if hdris else None
    now |= {f"filter.{key}": value for key, value in given["filter"].items()}
    saved = output.settings(now)
    changed = [f"{key}={saved.get(key)}" for key in now if saved.get(key) != now[key]]
    if saved.get("render.hdris") and hdris and saved["render.hdris"] != now["render.hdris"]:
        changed.append(f"other files in {hdris[0].parent} than now ({now['render.hdris']})")
    if changed:
        raise UserError(f"{output.folder} was rendered with {', '.join(changed)}: choose another render.out")


class StopSignals:
    """SIGTERM and Ctrl-C end the renderers, then us. A context manager that leaves handlers as found."""

    number: int | None = None
    cancelled = False  # by an error of ours

    def __enter__(self):
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number, frame):
        self.number = number

    def requested(self) -> bool:
        return self.cancelled or self.number is not None


@dataclass(frozen=True)
class Work:
    """What every object's rendering needs."""

    cfg: RenderConfig
    command: list[str]
    hdris: tuple[Path, ...] | None
    source: AssetFolder | ObjaverseList
    output: Output
    stopped: Callable[[], bool]


def each_result(todo: list[Asset], work: Work, stop: StopSignals) -> Iterator[tuple[Asset, str]]:
    """(asset, RENDERED, ELSEWHERE or a kind of Failure) in the order of their ends; threads wait for the workers' processes."""
    with ThreadPoolExecutor(work.cfg.render.num_processes) as pool:
        pending: set[Future] = set()
        try:
            for asset in todo:
                pending.add(pool.submit(render_object, asset, work))
                if len(pending) == work.cfg.render.num_processes:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in wait(pending).done)
        finally:
            stop.cancelled = True


def render_object(asset: Asset, work: Work) -> tuple[Asset, str]:
    if work.stopped():
        raise Stopped
    with work.output.claim(asset.id) as folder:
        if folder is None:
            return asset, ELSEWHERE
        line = {"id": asset.id, "source": asset.source}
        try:
            orbit = draw_orbit(asset, folder, work)
        except Failure as failure:
            tqdm.write(f"{asset.id}: {failure.kind}: {failure.reason}")
            if failure.kind != "download":
                work.output.fail(line, failure)
            return asset, failure.kind
        work.output.keep(line | orbit, folder / "orbit")
        return asset, RENDERED


def draw_orbit(asset: Asset, folder: Path, work: Work) -> dict:
    """Views and cameras.json into `folder`/orbit -> the rest of its jsonl line. Raises Failure."""
    render, seed = work.cfg.render, object_seed(asset.id, work.cfg.render.seed)
    elevation_deg = elevation_of(seed, render)
    names = [f"{view:03d}.{render.format}" for view in range(render.num_views)]
    cameras = orbit_cameras(names, elevation_deg, render.size_px)
    with work.source.fetched(asset, work.output.alone(INDEX)) as fetched:
        check_asset(fetched.path, int(render.max_asset_mib * 2**20))
        np.save(folder / "environment.npy", environment_for(seed, work.hdris))
        job = Job(
            asset=str(fetched.path.absolute()),
            views=str(folder / "views"),
            camera_to_world=[frame["transform_matrix"] for frame in cameras["frames"]],
            fov_deg=FOV_DEG,
            size_px=render.size_px,
            num_samples=render.num_samples,
            environment=str(folder / "environment.npy"),
            device=render.device,
        )
        limits = Limits(render.time_limit_s, render.memory_limit_gib)
        views = run_job(work.command, job, limits, worker_environment(render), work.stopped)
    if reason := why_rejected(views, elevation_deg, work.cfg.filter):
        if render.sheet_rows:
            strip(views).save(folder / "strip.png")
            (folder / "strip.png").replace(work.output.strip_path(asset.id))
        raise Failure("filtered", reason)
    (folder / "orbit").mkdir()
    for name, view in zip(names, views):
        Image.fromarray(view).save(folder / "orbit" / name, **SAVE_OPTIONS[render.format])
    (folder / "orbit" / CAMERAS).write_text(json.dumps(cameras, indent=1) + "\n")
    paths = [f"{asset.id}/{name}" for name in names]
    return {"image_path": paths, "elevation": [elevation_deg] * len(names)} | fetched.about


def elevation_of(seed: int, render: RenderSettings) -> float:
    """Degrees, of all views of an object, to a thousandth."""
    random = np.random.default_rng([seed, ELEVATION_STREAM])
    return round(float(random.uniform(render.elevation_min_deg, render.elevation_max_deg)), 3)


def worker_environment(render: RenderSettings) -> dict[str, str]:
    """The machine's cores divided among the workers; a GPU for each process of `accelerate launch`."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment = {"OMP_NUM_THREADS": str(max(1, cores // (local * render.num_processes)))}
    if render.device == "gpu" and local > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
        environment["CUDA_VISIBLE_DEVICES"] = os.environ["LOCAL_RANK"]
    return environment


def follow(results: Iterator[tuple[Asset, str]], total: int, done: int) -> Counter:
    """Shows how far it is -> how many ended how."""
    counts, started = Counter(), time.monotonic()
    with tqdm(total=total, initial=done, unit="object", disable=not sys.stderr.isatty()) as bar:
        for asset, result in results:
            counts[result] += 1
            bar.update()
            bar.set_postfix({name: count for name, count in counts.items() if name != RENDERED}, refresh=False)
            if bar.disable and result == RENDERED:
                place = done + counts.total()
                seconds = (time.monotonic() - started) / counts.total()
                print(f"{asset.id}: {place} of {total}, {(total - place) * seconds / 60:.1f} min left", flush=True)
    return counts


def report(output: Output, mine: list[Asset], counts: Counter, seconds: float, complete: bool) -> None:
    rendered, failed = output.finished()
    kinds = Counter(failed[asset.id] for asset in mine if asset.id in failed) + Counter(download=counts["download"])
    filtered, detail = kinds.pop("filtered", 0), ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    share = f"{sum(asset.id in rendered for asset in mine)} rendered, {filtered} filtered, {kinds.total()} failed"
    here = counts.total() - counts[ELSEWHERE]
    print(f"{output.folder}: {share}{f' ({detail})' if detail else ''} of {len(mine)} objects", end="")
    print(f"; {here} of them now, {seconds / here:.1f} s each" if here else "; nothing to do", end="")
    print(f"; {counts[ELSEWHERE]} left to other processes" if counts[ELSEWHERE] else "", end="")
    print("" if complete else "; the list is not finished yet", flush=True)
