"""Renders that would poison training: pure functions of an orbit's views, V H W 4 uint8 with straight alpha, azimuths even."""

from dataclasses import dataclass

import numpy as np

from rendering.camera import RADIUS, orbit_distance
from utils.schemas_render import FilterSettings

OPAQUE = 128  # alpha from which a pixel is the object's
BURNT, BLACK = 250, 5  # all three channels are at least, at most this
VIEWS_FOR_EXTENTS = 5  # four views of a box fit boxes of any turn
COLOUR_SIDE_PX = 192  # of larger views every n-th pixel is enough to judge colours
LUMA = np.array([0.2126, 0.7152, 0.0722])
_TURNS_DEG = np.arange(0, 180, 0.5)


def why_rejected(views: np.ndarray, elevation_deg: float, filter_: FilterSettings) -> str | None:
    """Return the first reason to leave the orbit out, with its numbers; None means to keep it."""
    checks = (
        lambda: _in_the_frame(views, filter_),
        lambda: _solid(views, elevation_deg, filter_),
        lambda: _exposed(views, filter_),
        lambda: _turning(views, filter_),
    )
    return next((reason for check in checks if (reason := check())), None)


def _in_the_frame(views: np.ndarray, filter_: FilterSettings) -> str | None:
    alpha = views[..., 3]
    if not alpha.any():
        return "empty: no view shows anything"
    opacity = alpha.sum() / np.count_nonzero(alpha) / 255
    if opacity < filter_.min_opacity:
        return f"transparent: its pixels have a mean alpha of {opacity:.3f}, less than {filter_.min_opacity:g}"
    coverage = (alpha >= OPAQUE).mean(axis=(1, 2)).max()
    if coverage < filter_.min_coverage:
        return f"tiny: it covers at most {coverage:.4f} of a view, less than {filter_.min_coverage:g}"
    return None


def _solid(views: np.ndarray, elevation_deg: float, filter_: FilterSettings) -> str | None:
    if len(views) < VIEWS_FOR_EXTENTS:
        return None
    extents = np.sort(box_extents(views[..., 3] >= OPAQUE, elevation_deg))
    if extents[0] < filter_.min_thickness * extents[1]:
        flat = extents[0] / extents[1]
        return f"flat: its thickness is {flat:.3f} of its width, less than {filter_.min_thickness:g}"
    return None


@dataclass(frozen=True)
class _Spans:
    widths: np.ndarray  # V, of the silhouettes, in parts of the frame
    heights: np.ndarray


def _spans(masks: np.ndarray) -> _Spans:
    def span(lines: np.ndarray) -> np.ndarray:
        last = lines.shape[1] - np.argmax(lines[:, ::-1], axis=1)
        return np.where(lines.any(axis=1), last - np.argmax(lines, axis=1), 0) / lines.shape[1]

    return _Spans(span(masks.any(axis=1)), span(masks.any(axis=2)))


def box_extents(masks: np.ndarray, elevation_deg: float) -> np.ndarray:
    """V H W silhouettes of an orbit -> the object's length, width and height, about, in parts of the frame.

    A standing box of length L and width T is L |sin a| + T |cos a| wide, a the azimuth from its long side: the best L, T and
    turn are fitted. A box's height in the frame is its own height plus its depth times the sine of the elevation. The depth is its
    width a quarter turn later. We subtract that part.
    """
    spans = _spans(masks)
    num_views = len(masks)
    angles = np.radians(np.arange(num_views) * 360 / num_views - _TURNS_DEG[:, None])  # turns V
    sine, cosine = np.abs(np.sin(angles)), np.abs(np.cos(angles))
    fitted = _fit(sine, cosine, spans.widths)
    errors = np.abs(sine * fitted[:, :1] + cosine * fitted[:, 1:] - spans.widths).mean(axis=1)
    length, width = fitted[np.argmin(errors)]

    depths = np.interp(np.arange(num_views) + num_views / 4, np.arange(2 * num_views), np.tile(spans.widths, 2))
    sine_up, cosine_up = abs(np.sin(np.radians(elevation_deg))), np.cos(np.radians(elevation_deg))
    distance = orbit_distance()
    # In perspective the near half of a lying disc is lower than its far half is high.
    magnified = distance * np.sqrt(distance**2 - RADIUS**2) / (distance**2 - (RADIUS * cosine_up) ** 2)
    heights = (spans.heights - depths * sine_up * magnified) / cosine_up
    return np.array([length, width, max(0.0, float(np.median(heights)))])


def _fit(sine: np.ndarray, cosine: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """turns 2: the least-squares length and width for every turn, none below 0."""
    ss, cc, sc = (sine**2).sum(axis=1), (cosine**2).sum(axis=1), (sine * cosine).sum(axis=1)
    sw, cw = sine @ widths, cosine @ widths
    determinant = ss * cc - sc**2
    return np.stack([(cc * sw - sc * cw), (ss * cw - sc * sw)], axis=1).clip(0) / determinant[:, None]


def _exposed(views: np.ndarray, filter_: FilterSettings) -> str | None:
    views = _fewer_pixels(views)
    pixels = views[views[..., 3] >= OPAQUE][:, :3]  # N 3
    if not len(pixels):
        return None
    burnt = (pixels.min(axis=1) >= BURNT).mean()
    black = (pixels.max(axis=1) <= BLACK).mean()
    if burnt > filter_.max_burnt:
        return f"over-exposed: {burnt:.3f} of its pixels are white, more than {filter_.max_burnt:g}"
    if black > filter_.max_black:
        return f"under-exposed: {black:.3f} of its pixels are black, more than {filter_.max_black:g}"
    brightness = pixels.mean(axis=0) @ LUMA / 255
    if brightness < filter_.min_brightness:
        return f"under-exposed: its mean brightness is {brightness:.3f}, less than {filter_.min_brightness:g}"
    return None


def _turning(views: np.ndarray, filter_: FilterSettings) -> str | None:
    """Compare all views with the first, over the pixels of either, with colours weighted by alpha."""
    views = _fewer_pixels(views)
    first = _weighted(views[0])
    change = 0.0
    for view in views[1:]:
        seen = (view[..., 3] > 0) | (views[0][..., 3] > 0)
        if seen.any():
            change = max(change, float(np.abs(_weighted(view) - first)[seen].mean() / 255))
    if change < filter_.min_change:
        return f"all views the same: they differ by {change:.4f}, less than {filter_.min_change:g}"
    return None


def _fewer_pixels(views: np.ndarray) -> np.ndarray:
    step = max(1, views.shape[1] // COLOUR_SIDE_PX)
    return views[:, ::step, ::step]


def _weighted(view: np.ndarray) -> np.ndarray:
    """Return H W 4: colour times alpha, and alpha."""
    alpha = view[..., 3:].astype(np.float32)
    return np.concatenate([view[..., :3] * (alpha / 255), alpha], axis=-1)
