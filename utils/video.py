"""Views as an mp4 that browsers play, or as a GIF."""

import io
import subprocess
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from utils.errors import UserError, cut

FPS = 7
CRF = 10  # the quality of x264, from 0 (best) to 51


def to_uint8(views: Tensor) -> np.ndarray:
    """Turn views, ... 3 H W in [-1, 1], into pixels, ... H W 3 uint8."""
    pixels = ((views.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.movedim(-3, -1).cpu().numpy()


def write_mp4(path: Path, frames: np.ndarray) -> None:
    """Write F H W 3 uint8 as H.264 in yuv420p. That needs even sides, so an odd one repeats its last line. Raises UserError."""
    import imageio_ffmpeg

    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    read = ["-f", "rawvideo", "-vcodec", "rawvideo", "-s", size, "-pix_fmt", "rgb24", "-r", str(FPS), "-i", "-", "-an"]
    write = ["-vcodec", "libx264", "-pix_fmt", "yuv420p", "-crf", str(CRF), "-v", "error", str(path.absolute())]
    # The writer of imageio_ffmpeg would not look at how ffmpeg ended.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", *read, *write]
    ended = subprocess.run(command, input=frames.tobytes(), capture_output=True, process_group=0)
    if ended.returncode:
        lines = ended.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {ended.returncode}"]
        raise UserError(f"{path}: cannot be written: ffmpeg: {cut(lines[0])}")  # the rest follows from it


def read_mp4(path: Path) -> np.ndarray:
    """Read the frames of an mp4: F H W 3 uint8."""
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def gif_bytes(frames: np.ndarray) -> bytes:
    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=1000 // FPS, loop=0)
    return buffer.getvalue()
