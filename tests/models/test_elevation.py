"""The elevation is used: where nothing else tells two orbits apart, the UNet learns to tell them by it."""

import copy

import numpy as np
import torch

from commands.dummy_objaverse import on_white
from dataset.images import to_float
from models.conditioning import with_elevation
from models.objective import denoising_loss
from models.svd import Svd
from rendering.camera import azimuths_deg
from rendering.solids import render_view

FRAMES = 7
LOW, HIGH = -5.0, 30.0


def orbit(elevation_deg: float) -> torch.Tensor:
    """F 3 32 32 in [-1, 1]: a table, whose top is an ellipse from above and a line from the side."""
    views = np.stack([render_view("table", azimuth, elevation_deg, 32) for azimuth in azimuths_deg(FRAMES)])
    return to_float(torch.from_numpy(on_white(views)).permute(0, 3, 1, 2))


def test_after_some_steps_the_right_elevation_has_the_lower_loss(svd: Svd):
    """Both orbits are shown from the same input view. At first the elevation changes nothing, since its weights are zero."""
    unet = copy.deepcopy(svd.unet).train()
    layout = svd.encoders.layout
    elevations = torch.tensor([LOW, HIGH])
    pixels = torch.stack([orbit(LOW), orbit(HIGH)])
    view = pixels[:1, 0].expand(2, -1, -1, -1)
    latents = svd.encoders.latents(pixels)
    cond = svd.encoders.condition(view, elevations, torch.full((2,), 0.02), torch.zeros_like(view))
    wrong = with_elevation(cond, layout, elevations.flip(0))
    random = torch.Generator().manual_seed(0)

    def loss(conditioning, sigma: float) -> torch.Tensor:
        noise = torch.randn(latents.shape, generator=random)
        return denoising_loss(unet, latents, conditioning, torch.full((2,), sigma), noise).mean()

    def right_and_wrong() -> tuple[float, float]:
        losses = []
        with torch.no_grad():
            for conditioning in (cond, wrong):
                random.manual_seed(1)
                losses.append(loss(conditioning, 8.0).item())
        return tuple(losses)

    before = right_and_wrong()
    assert before[0] == before[1]
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3)
    for step in range(40):
        random.manual_seed(2 + step)
        optimizer.zero_grad()
        loss(cond, 8.0).backward()
        optimizer.step()
    right, other = right_and_wrong()
    assert right < before[0] and right < 0.9 * other, (before, right, other)
