"""Where a run's numbers and videos go: always metrics.jsonl, and wandb or TensorBoard beside it."""

import json
import math
import secrets
from pathlib import Path

from utils.config import Section
from utils.errors import UserError
from utils.files import write_atomically
from utils.video import gif_bytes, read_mp4


class Metrics:
    """RUN/metrics.jsonl: one JSON object a line, each with its step. Cut back to `step` when opened, for a resumed run."""

    def __init__(self, path: Path, step: int):
        self.path = path
        kept = [line for line in self._lines() if self._step(line) <= step]
        write_atomically(path, "".join(kept))

    def _lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []

    @staticmethod
    def _step(line: str) -> float:
        """Infinite for a line that was cut off."""
        try:
            return json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            return math.inf

    def scalars(self, step: int, values: dict[str, float]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | values) + "\n")

    def video(self, step: int, name: str, path: Path) -> None:
        """Videos are files under RUN/validation already."""

    def close(self, failed: bool) -> None:
        """Nothing is held open."""


class TensorBoard:
    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def video(self, step: int, name: str, path: Path) -> None:
        # add_video needs moviepy 1 and writes nothing, silently, with 2; a GIF in an image summary is what it made.
        from tensorboard.compat.proto.summary_pb2 import Summary

        frames = read_mp4(path)
        _, height, width, channels = frames.shape
        image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=gif_bytes(frames))
        self.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def close(self, failed: bool) -> None:
        self.writer.close()


class Wandb:
    def __init__(self, folder: Path, step: int, cfg: Section):
        import wandb

        id_file = folder / "wandb_id"
        if not step or not id_file.exists():
            id_file.write_text(secrets.token_hex(4))
        try:
            self.run = wandb.init(
                project=cfg.run.project,
                name=cfg.run.name,
                id=id_file.read_text(),
                resume="allow",
                dir=folder,
                config=cfg.model_dump(mode="json"),
            )
        except wandb.errors.Error as error:
            raise UserError(
                f"run.tracker: wandb: {str(error).splitlines()[0]}; log in with `wandb login`, or set WANDB_MODE=offline,"
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
    """All of a run's trackers as one; on ranks other than the first, none."""

    def __init__(self, folder: Path, step: int, cfg: Section, is_main_process: bool):
        self.trackers = [Metrics(folder / "metrics.jsonl", step)] if is_main_process else []
        if is_main_process and cfg.run.tracker == "tensorboard":
            self.trackers.append(TensorBoard(folder, step))
        if is_main_process and cfg.run.tracker == "wandb":
            self.trackers.append(Wandb(folder, step, cfg))

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
