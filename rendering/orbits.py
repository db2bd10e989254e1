"""Assets -> orbits: each asset is checked, rendered in a process of its own, filtered and saved with its cameras."""

import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from tqdm import tqdm

from rendering.blender import renderer as blender
from rendering.camera import FOV_DEG
from rendering.failure import Failure
from rendering.filters import why_rejected
from rendering.job import Job, up_axis
from rendering.light import environment_for, object_seed
from rendering.queue.assets import Asset, AssetFolder
from rendering.queue.locks import INDEX
from rendering.queue.objaverse import ObjaverseList
from rendering.queue.output import Output
from rendering.queue.process import Limits, Stopped, check_in_process, run_job
from rendering.quick import renderer as quick
from rendering.sheets import strip
from rendering.transforms import orbit_transforms, write_transforms
from utils.division import own_gpu
from utils.errors import UserError
from utils.files import write_file
from utils.schemas_render import RenderConfig, RenderSettings

RENDERERS: dict[str, ModuleType] = {"quick": quick, "blender": blender}
SAVE_OPTIONS = {"png": {"compress_level": 6}, "webp": {"lossless": True, "exact": True, "quality": 50, "method": 4}}
ELEVATION_STREAM = 0  # what is drawn from an object's seed has a number each; light.py has another
# How an asset's rendering can end, beside the kinds of Failure. ELSEWHERE: another process is at it, or has finished it.
RENDERED = "rendered"
ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Setup:
    """What the rendering of every asset needs."""

    cfg: RenderConfig
    command: Sequence[str]  # of the renderer's worker
    hdris: Sequence[Path] | None
    source: AssetFolder | ObjaverseList
    output: Output
    guest: str | None = None  # the renderer, if the output belongs to another one


def find_renderer(render: RenderSettings) -> ModuleType:
    if render.renderer not in RENDERERS:
        raise UserError(f"render.renderer: no '{render.renderer}'; the renderers are {', '.join(RENDERERS)}")
    return RENDERERS[render.renderer]


def open_assets(render: RenderSettings) -> AssetFolder | ObjaverseList:
    path = Path(render.assets)
    if path.suffix.lower() == ".txt" and path.is_file():
        return ObjaverseList(path, render.licenses)
    if not path.is_dir():
        raise UserError(f"render.assets: {path} is neither a folder nor a .txt file")
    if render.licenses:
        raise UserError("render.licenses: the licences of a folder's files are not known; it is for Objaverse uids")
    return AssetFolder(path)


def render_assets(
    assets: Sequence[Asset], setup: Setup, stop_requested: Callable[[], bool]
) -> Iterator[tuple[Asset, str]]:
    """Yield each asset and how it ended: RENDERED, ELSEWHERE or a kind of Failure, in the order in which they end.

    Threads wait for the renderers' processes. Raises Stopped once `stop_requested`, with all processes ended.
    """
    cancelled = threading.Event()  # by an error in one of the threads, or by whoever no longer asks for results

    def stopped() -> bool:
        return cancelled.is_set() or stop_requested()

    with ThreadPoolExecutor(setup.cfg.render.num_processes) as pool:
        pending: set[Future] = set()
        try:
            for asset in assets:
                pending.add(pool.submit(render_asset, asset, setup, stopped))
                if len(pending) == setup.cfg.render.num_processes:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in wait(pending).done)
        finally:
            cancelled.set()


def render_asset(asset: Asset, setup: Setup, stopped: Callable[[], bool]) -> tuple[Asset, str]:
    if stopped():
        raise Stopped
    with setup.output.claim(asset.id, setup.guest) as folder:
        if folder is None:
            return asset, ELSEWHERE
        line = {"id": asset.id, "source": asset.source}
        try:
            orbit = draw_orbit(asset, folder, setup, stopped)
        except Failure as failure:
            if failure.kind != "download":
                elevation_deg = elevation_of(object_seed(asset.id, setup.cfg.render.seed), setup.cfg.render)
                line |= {"elevation": elevation_deg, "renderer": setup.cfg.render.renderer}
                setup.output.fail(line, failure)
            tqdm.write(f"{asset.id}: {failure.kind}: {failure.reason}")
            return asset, failure.kind
        setup.output.keep(line | orbit, folder / "orbit")
        return asset, RENDERED


def draw_orbit(asset: Asset, folder: Path, setup: Setup, stopped: Callable[[], bool]) -> dict:
    """Write views and cameras to `folder`/orbit, and return the rest of the orbit's jsonl line. Raises Failure."""
    render = setup.cfg.render
    seed = object_seed(asset.id, setup.cfg.render.seed)
    elevation_deg = elevation_of(seed, render)
    names = [f"{view:03d}.{render.format}" for view in range(render.num_views)]
    transforms = orbit_transforms(names, elevation_deg, render.size_px)
    limits = Limits(render.time_limit_s, render.memory_limit_gib)
    with setup.source.fetched(asset, setup.output.alone(INDEX)) as fetched:
        check_in_process(fetched.path, folder, int(render.max_asset_mib * 2**20), limits, stopped)
        write_array(folder / "environment.npy", environment_for(seed, setup.hdris))
        job = job_for(fetched.path, folder, transforms, render)
        drawn = run_job(setup.command, job, limits, worker_environment(render), stopped)
    if reason := why_rejected(drawn.views, drawn.placement.box, setup.cfg.filter):
        if render.sheet_rows:
            write_image(folder / "strip.png", strip(drawn.views))
            (folder / "strip.png").replace(setup.output.strip_path(asset.id))
        raise Failure("filtered", reason)
    about = {"renderer": render.renderer, "object": {"up_axis": job.up_axis, **asdict(drawn.placement)}}
    save_orbit(folder / "orbit", names, drawn.views, about | transforms)
    paths = [f"{asset.id}/{name}" for name in names]
    return {"image_path": paths, "elevation": [elevation_deg] * len(names)} | fetched.about


def job_for(asset: Path, folder: Path, transforms: dict, render: RenderSettings) -> Job:
    return Job(
        asset=str(asset.absolute()),
        views=str(folder / "views"),
        camera_to_world=[frame["transform_matrix"] for frame in transforms["frames"]],
        fov_deg=FOV_DEG,
        size_px=render.size_px,
        num_samples=render.num_samples,
        environment=str(folder / "environment.npy"),
        device=render.device,
        up_axis=up_axis(asset, render.up_axis),
    )


def save_orbit(folder: Path, names: Sequence[str], views: np.ndarray, transforms: dict) -> None:
    folder.mkdir()
    for name, view in zip(names, views):
        write_image(folder / name, Image.fromarray(view))
    write_transforms(folder, transforms)


def write_image(path: Path, image: Image.Image) -> None:
    """Encode, then write: when the disk is full, Pillow's own error has no number and names no file; numpy's neither."""
    data = io.BytesIO()
    kind = path.suffix[1:]
    image.save(data, kind, **SAVE_OPTIONS[kind])
    write_file(path, data.getvalue())


def write_array(path: Path, values: np.ndarray) -> None:
    data = io.BytesIO()
    np.save(data, values)
    write_file(path, data.getvalue())


def elevation_of(seed: int, render: RenderSettings) -> float:
    """Draw the elevation that all views of an object share, in degrees, to a thousandth."""
    random = np.random.default_rng([seed, ELEVATION_STREAM])
    return round(float(random.uniform(render.elevation_min_deg, render.elevation_max_deg)), 3)


def worker_environment(render: RenderSettings) -> dict[str, str]:
    """Divide the machine's cores among the workers, and give each process of a launcher or of `srun` a GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    launched = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # srun gives each of its processes cores of its own
    environment = {"OMP_NUM_THREADS": str(max(1, cores // (launched * render.num_processes)))}
    gpu = own_gpu(os.environ) if render.device == "gpu" else None
    return environment | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
