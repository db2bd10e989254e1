"""Views -> an mp4 that browsers play, a GIF, and a contact sheet."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

FPS = 7
SHEET_TILE_PX = 96


def to_uint8(views: Tensor) -> np.ndarray:
    """... 3 H W in [-1, 1] -> ... H W 3."""
    pixels = ((views.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.movedim(-3, -1).cpu().numpy()


def write_mp4(path: Path, frames: np.ndarray) -> None:
    """F H W 3 uint8 -> H.264 in yuv420p, of even size (an odd side repeats its last line)."""
    import imageio_ffmpeg

    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    size = (frames.shape[2], frames.shape[1])
    writer = imageio_ffmpeg.write_frames(
        str(path),
        size,
        fps=FPS,
        codec="libx264",
        pix_fmt_out="yuv420p",
        quality=8,
        macro_block_size=2,
        ffmpeg_log_level="error",
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def read_mp4(path: Path) -> np.ndarray:
    """-> F H W 3 uint8."""
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def gif_bytes(frames: np.ndarray) -> bytes:
    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=1000 // FPS, loop=0)
    return buffer.getvalue()


def contact_sheet(rows: dict[str, np.ndarray], label_width: int = 64) -> Image.Image:
    """{label: F H W 3} -> one picture, a labelled row of tiles each; rows may differ in length."""
    gap, tile = 2, SHEET_TILE_PX
    columns = max(len(frames) for frames in rows.values())
    sheet = Image.new("RGB", (label_width + columns * (tile + gap), len(rows) * (tile + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (label, frames) in enumerate(rows.items()):
        lines = label.count("\n") + 1
        draw.text((6, row * (tile + gap) + tile // 2 - 6 * lines), label, fill="black", spacing=1)
        for column, frame in enumerate(frames):
            view = Image.fromarray(frame).resize((tile, tile), Image.Resampling.BICUBIC)
            sheet.paste(view, (label_width + column * (tile + gap), row * (tile + gap)))
    return sheet
