"""Renders that would poison training: pure functions of an orbit's views, V H W 4 uint8 with straight alpha, azimuths even."""

from collections.abc import Sequence

import numpy as np

from utils.schemas_render import FilterSettings

OPAQUE = 128  # alpha from which a pixel is the object's
BURNT = 250  # all three channels are at least this
BLACK = 5  # all three channels are at most this
SEEN_PART = 0.75  # of an object; what is seen of the rest makes up for no more
COLOUR_SIDE_PX = 192  # of larger views every n-th pixel is enough to judge colours
LUMA = np.array([0.2126, 0.7152, 0.0722])


def why_rejected(views: np.ndarray, box: Sequence[float], filter_: FilterSettings) -> str | None:
    """Return the first reason to leave the orbit out, with its numbers; None means to keep it.

    `box`: the sides of the oriented box around what is drawn, longest first.
    """
    checks = (
        lambda: _in_the_frame(views, filter_),
        lambda: _solid(box, filter_),
        lambda: _exposed(views, filter_),
        lambda: _seen_on_white(views, filter_),
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


def _solid(box: Sequence[float], filter_: FilterSettings) -> str | None:
    _, middle, thickness = box
    if thickness < filter_.min_thickness * middle:
        flat = thickness / middle
        return f"flat: its thickness is {flat:.3f} of its width, less than {filter_.min_thickness:g}"
    return None


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


def _seen_on_white(views: np.ndarray, filter_: FilterSettings) -> str | None:
    """Judge the view that is worst: a bright object is as good as not there in it, though other views show their shadows.

    A dark side does not make up for a top that is gone: no pixel counts for more than makes SEEN_PART of such pixels enough.
    """
    most = filter_.min_contrast / SEEN_PART
    for index, view in enumerate(_fewer_pixels(views)):
        shown = view[view[..., 3] >= OPAQUE].astype(np.float32) / 255  # N 4
        if not len(shown):
            continue
        contrast = ((1 - shown[:, :3].min(axis=1)) * shown[:, 3]).clip(max=most).mean()
        if contrast < filter_.min_contrast:
            return f"white on white: in view {index} it differs from white by {contrast:.3f}, less than {filter_.min_contrast:g}"
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
