"""Videos hold the frames that they were given."""

import io
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from utils.errors import UserError
from utils.video import gif_bytes, read_mp4, to_uint8, write_mp4


def gradient_frames(height=33, width=47):
    frames = np.zeros((5, height, width, 3), np.uint8)
    frames[..., 0] = np.linspace(0, 255, width)
    frames[..., 1] = np.arange(5)[:, None, None] * 50
    return frames


def test_mp4_is_h264_yuv420p_of_even_size_and_holds_the_frames(tmp_path):
    frames = gradient_frames()
    write_mp4(tmp_path / "a.mp4", frames)
    probe = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(tmp_path / "a.mp4")], capture_output=True, text=True
    ).stderr
    assert "h264" in probe and "yuv420p" in probe and "48x34" in probe
    back = read_mp4(tmp_path / "a.mp4")[:, :33, :47]
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 6


def test_gif_holds_every_frame():
    assert Image.open(io.BytesIO(gif_bytes(gradient_frames()))).n_frames == 5


def test_to_uint8_maps_the_ends_of_the_range():
    views = torch.tensor([-1.0, 0.0, 1.0, 2.0]).view(4, 1, 1, 1).expand(4, 3, 1, 1)
    assert to_uint8(views)[:, 0, 0, 0].tolist() == [0, 128, 255, 255]


def test_a_video_that_ffmpeg_cannot_write_is_one_error(tmp_path):
    for path in (tmp_path / "nowhere" / "a.mp4", tmp_path / "a.notaformat"):
        with pytest.raises(UserError, match=rf"{path.name}: cannot be written: ffmpeg: "):
            write_mp4(path, gradient_frames())
