"""The work behind the page of `demo`: an uploaded image is looked at, or sampled as `sample` does."""

import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from commands.sample import SampleTask, background_remover, describe, orbit_html, sample_tasks, write_results
from dataset.backgrounds import cut_out_of_plain
from dataset.inputs import InputImage, input_view
from models.svd import Svd
from training.saved_model import SavedModel
from utils.errors import UserError
from utils.files import file_name
from utils.reading import explain, mistakes
from utils.schemas import DemoSettings, SampleSettings
from utils.video import to_uint8

MAX_WAITING = 16  # orbits that wait while one is sampled; more are told so
MAX_TEMPORARY_BYTES = 1 << 30  # of uploads and results together


class SamplingStopped(Exception):
    """Somebody pressed stop, closed the page, or ended the program."""


class Studio:
    """The loaded model, and what the page can ask of it. Its methods may be called from several threads."""

    def __init__(self, svd: Svd, saved: SavedModel, settings: DemoSettings, mixed_precision: str, folder: Path):
        self.saved = saved
        self.settings = settings
        self.folder = folder
        self._svd = svd
        self._mixed_precision = mixed_precision
        self._device = svd.unet.device
        self._one_at_a_time = threading.Lock()
        self._ended = threading.Event()
        self._stops: set[tuple[str, threading.Event]] = set()  # of the sessions that sample, or wait for it
        self._remover = lru_cache(1)(background_remover)
        self.look = lru_cache(8)(self._look)

    def _look(self, path: Path, cut_out: bool) -> tuple[Tensor, bool]:
        """Return the input view of an image (1 3 H W in [-1, 1]), and whether the image had to be taken whole.

        Raises UserError, with the name of the file but not the path that it was uploaded to.
        """
        warnings: list[str] = []
        remover = self._remover() if cut_out else cut_out_of_plain
        size_px, fill = self.settings.size_px, self.settings.object_fill
        try:
            view = input_view(path, fill, size_px, cut_out=remover, warn=warnings.append)
        except UserError as error:
            raise UserError(str(error).replace(str(path), path.name)) from None
        return view, bool(warnings)

    def sample(
        self, path: Path, cut_out: bool, choices: dict, session: str, on_step: Callable[[int], object]
    ) -> tuple[str, Path]:
        """Sample an orbit as `sample` does, and return it as HTML for the page, and a zip of the files of `sample`.

        `choices` holds the keys of `sample` that were chosen. `on_step` is called with the number of steps done. Raises
        UserError, and SamplingStopped.
        """
        settings = self._sample_settings(path.name, choices | {"remove_background": cut_out})
        if len(self._stops) > MAX_WAITING:
            raise UserError(f"{MAX_WAITING} others wait already: try again later")
        stop = threading.Event()
        self._stops.add((session, stop))
        try:
            with self._one_at_a_time:
                if stop.is_set() or self._ended.is_set():
                    raise SamplingStopped
                view, _ = self.look(path, cut_out)
                steps = iter(range(1, settings.num_inference_steps + 1))

                def step() -> None:
                    on_step(next(steps))
                    if stop.is_set() or self._ended.is_set():
                        raise SamplingStopped

                image = InputImage(file_name(path.stem) or "image", Path(path.name), settings.elevation_deg)
                place = self.folder / secrets.token_hex(16)  # nobody else can guess its address
                task = SampleTask(image, settings.seeds[0], place / image.name / f"seed_{settings.seeds[0]}")
                num_frames = self.saved.data.num_frames
                views = sample_tasks([task], [view.to(self._device)], self._svd, num_frames, settings, step)[0]
                about = describe(task, self.saved, settings, self._mixed_precision)
                write_results(task, view, views, about, settings)
                return orbit_html(to_uint8(view), to_uint8(views)), _zipped(task)
        finally:
            self._stops.discard((session, stop))

    def _sample_settings(self, name: str, choices: dict) -> SampleSettings:
        """Return what `sample` would have been asked for. Raises UserError."""
        shared = {key: value for key, value in self.settings.model_dump().items() if key in SampleSettings.model_fields}
        try:
            settings = SampleSettings.model_validate_json(json.dumps(shared | {"image": name, "out": "."} | choices))
        except ValidationError as error:
            raise UserError(mistakes([explain(item) for item in error.errors(include_url=False)])) from None
        if settings.elevation_deg is None:
            raise UserError("elevation_deg is missing")
        return settings

    def stop(self, session: str) -> None:
        """End what the session samples, at its next step, and what it waits to sample."""
        for owner, stop in [*self._stops]:
            if owner == session:
                stop.set()

    def end(self) -> None:
        """End whatever is being sampled, at its next step."""
        self._ended.set()

    def finish(self) -> None:
        """Wait until nothing is being sampled any more."""
        with self._one_at_a_time:
            pass

    def tidy(self) -> None:
        """Remove the oldest files of the temporary folder beyond MAX_TEMPORARY_BYTES."""
        remove_oldest(self.folder, MAX_TEMPORARY_BYTES)


def _zipped(task: SampleTask) -> Path:
    """Put the task's folder into a zip, under the path that `sample` would have given it. Only the zip stays."""
    root = task.folder.parent.parent
    archive = shutil.make_archive(str(root / f"{task.image.name}_seed_{task.seed}"), "zip", root, task.image.name)
    shutil.rmtree(task.folder.parent)
    return Path(archive)


def remove_oldest(folder: Path, max_bytes: int) -> None:
    """Remove the files of a folder that changed first, until the others have at most `max_bytes`."""
    kept = 0
    found = []
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with suppress(FileNotFoundError):  # it was removed meanwhile
                status = path.lstat()
                found.append((status.st_mtime, status.st_size, path))
    for _, size, path in sorted(found, reverse=True):
        kept += size
        if kept > max_bytes:
            path.unlink(missing_ok=True)
