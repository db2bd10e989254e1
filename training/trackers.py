"""Where a run's numbers and videos go: always metrics.jsonl, and wandb or TensorBoard beside it."""

import json
import os
import secrets
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from utils.errors import UserError, first_line
from utils.files import naming, write_atomically
from utils.schemas import RunSettings
from utils.video import gif_bytes, read_mp4


class Metrics:
    """RUN/metrics.jsonl: one JSON object a line, each with its step.

    When it is opened, what a resumed run is to do again is cut off: the lines after `step`, and the `val/` lines of `step`
    itself if it still `owes_validation`.
    """

    def __init__(self, path: Path, step: int, owes_validation: bool):
        self.path = path
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.exists() else []
        write_atomically(path, "".join(line for line in lines if _is_kept(line, step, owes_validation)))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        with naming(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | values) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def video(self, step: int, name: str, path: Path) -> None:
        """Videos are files under RUN/validation already."""

    def close(self, failed: bool) -> None:
        """Nothing is held open."""


def _is_kept(line: str, step: int, owes_validation: bool) -> bool:
    """Return whether a resumed run keeps a line of metrics.jsonl. A line that was cut off is dropped."""
    if not line.endswith("\n"):
        return False
    try:
        values = json.loads(line)
        kept = values["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False
    again = owes_validation and values["step"] == step and any(name.startswith("val/") for name in values)
    return kept and not again


class TensorBoard:
    """Writes to RUN/tensorboard. It hides an earlier process's points after `step`; ours are in the file when a method returns."""

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._excepthook = threading.excepthook
        threading.excepthook = partial(_print_unless_kept, self._excepthook)
        self.writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def video(self, step: int, name: str, path: Path) -> None:
        # add_video needs moviepy 1 and writes nothing, silently, with 2; a GIF in an image summary is what it made.
        from tensorboard.compat.proto.summary_pb2 import Summary

        frames = read_mp4(path)
        _, height, width, channels = frames.shape
        image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=gif_bytes(frames))
        self.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
        self.writer.flush()

    def close(self, failed: bool) -> None:
        self.writer.close()
        threading.excepthook = self._excepthook


def _print_unless_kept(otherwise: Callable, end: threading.ExceptHookArgs) -> None:
    """Print nothing of an error that ended TensorBoard's thread: it keeps the error, and our next call raises it."""
    if getattr(end.thread, "exception", None) is not end.exc_value:
        otherwise(end)


class Wandb:
    """Logs to wandb. The run's id is kept in RUN/wandb_id, so that a resumed run is the same run there."""

    def __init__(self, folder: Path, step: int, run: RunSettings, config: dict):
        import wandb

        id_file = folder / "wandb_id"
        run_id = id_file.read_text() if step and id_file.exists() else ""
        if not run_id:
            run_id = secrets.token_hex(4)
            write_atomically(id_file, run_id)
        try:
            self.run = wandb.init(
                project=run.project,
                name=run.name,
                id=run_id,
                resume="allow",
                dir=folder,
                config=config,
            )
        except wandb.errors.Error as error:
            raise UserError(
                f"run.tracker: wandb: {first_line(error)}; log in with `wandb login`, or set WANDB_MODE=offline,"
                " or use run.tracker=tensorboard"
            ) from None
        # An axis of our own: wandb's counter drops whatever is logged at a step it has passed.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.run.log({"step": step} | values)

    def video(self, step: int, name: str, path: Path) -> None:
        import wandb

        self.run.log({"step": step, name: wandb.Video(str(path), format="mp4")})

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class Trackers:
    """All of a run's trackers as one. It is a context manager, and empty on ranks other than the first.

    A run that `owes_validation` of its `step` may have sent it to the trackers before it was killed, and now sends it again.
    metrics.jsonl drops the first copy; TensorBoard and wandb show the point twice.
    """

    def __init__(
        self, folder: Path, step: int, owes_validation: bool, run: RunSettings, config: dict, is_main_process: bool
    ):
        self.trackers = [Metrics(folder / "metrics.jsonl", step, owes_validation)] if is_main_process else []
        if is_main_process and run.tracker == "tensorboard":
            self.trackers.append(TensorBoard(folder, step))
        if is_main_process and run.tracker == "wandb":
            self.trackers.append(Wandb(folder, step, run, config))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for tracker in self.trackers:
            tracker.scalars(step, values)

    def video(self, step: int, name: str, path: Path) -> None:
        for tracker in self.trackers:
            tracker.video(step, name, path)

    def __enter__(self):
        return self

    def __exit__(self, error_type, *_):
        for tracker in self.trackers:
            tracker.close(failed=error_type is not None)
