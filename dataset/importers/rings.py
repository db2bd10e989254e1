"""Rings of views: once around, at even steps, one elevation and one distance. Pure functions of angles.

A source may hold several rings, views that stand twice, and views from above and below.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset.importers.geometry import MAX_OFF_CENTRE_DEG, Angles
from dataset.records import MAX_ELEVATION_SPREAD_DEG

MAX_STEP_ERROR_DEG = 0.1
MAX_DISTANCE_SPREAD = 0.01  # of the distance
POLE_DEG = 85.0  # views from further above or below show no side, and belong to no ring
# How far neighbours of one ring may be apart, in degrees of elevation and parts of the distance. First finely, so that two rings
# at nearly one elevation stay two; then what is left, as far as a ring may vary.
GAPS = ((0.02, 0.001), (MAX_ELEVATION_SPREAD_DEG, MAX_DISTANCE_SPREAD))


@dataclass(frozen=True)
class Found:
    rings: list[list[int]]  # numbers of views, counter-clockwise from azimuth 0, in the order of their first views
    left_over: list[int]  # numbers of the views that belong to no ring, beside those from above and below


def find_rings(angles: Angles, min_views: int) -> Found:
    rings: list[list[int]] = []
    seen = np.abs(angles.elevation_deg) < POLE_DEG
    free = {int(view) for view in np.flatnonzero(seen & (angles.off_centre_deg <= MAX_OFF_CENTRE_DEG))}
    for gaps in GAPS:
        for group in _groups(sorted(free), angles, gaps):
            ring = _in_order(group, angles)
            if len(ring) >= min_views and why_no_ring(ring, angles) is None:
                rings.append(ring)
                free -= {*group}
    past = {int(view) for view in np.flatnonzero(seen & (angles.off_centre_deg > MAX_OFF_CENTRE_DEG))}
    return Found(sorted(rings, key=min), sorted(free | past))


def why_no_ring(ring: Sequence[int], angles: Angles) -> str | None:
    """Return why views in order of azimuth are no full, even ring; None if they are one."""
    azimuths = angles.azimuth_deg[ring]
    steps = np.diff(azimuths, append=azimuths[0] + 360) % 360
    step = 360 / len(ring)
    worst = int(np.abs(steps - step).argmax())
    if len(ring) > 1 and abs(steps[worst] - step) > MAX_STEP_ERROR_DEG:
        return (
            f"{len(ring)} views would stand {step:.1f} degrees apart, but {steps[worst]:.1f} degrees follow azimuth"
            f" {azimuths[worst]:.1f}"
        )
    elevations = angles.elevation_deg[ring]
    if np.ptp(elevations) > MAX_ELEVATION_SPREAD_DEG:
        return f"its elevation varies from {elevations.min():.2f} to {elevations.max():.2f} degrees"
    distances = angles.distance[ring]
    if np.ptp(distances) > MAX_DISTANCE_SPREAD * distances.mean():
        return f"its distance varies from {distances.min():.3f} to {distances.max():.3f}"
    return None


def explain_left_over(views: Sequence[int], angles: Angles, names: Sequence[str], min_views: int) -> str:
    """Return why views make no ring, in the words of the largest group among them."""
    past = [view for view in views if angles.off_centre_deg[view] > MAX_OFF_CENTRE_DEG]
    groups = _groups([view for view in views if view not in past], angles, GAPS[-1])
    largest = _in_order(max(groups, key=len), angles) if groups else []
    reasons: list[str] = []
    if len(largest) >= min_views:
        mean = angles.elevation_deg[largest].mean()
        reasons.append(f"at elevation {mean:.1f}, {why_no_ring(largest, angles)}")
    elif largest:
        reasons.append(f"of {len(views)} views at most {len(largest)} share an elevation and a distance")
    if past:
        worst = max(past, key=lambda view: angles.off_centre_deg[view])
        worst_deg = angles.off_centre_deg[worst]
        reasons.append(f"views that look past the centre: {len(past)}, {names[worst]} by {worst_deg:.1f} degrees")
    return "; ".join(reasons) or "all views are from above or below"


def _groups(views: Sequence[int], angles: Angles, gaps: tuple[float, float]) -> list[list[int]]:
    """Divide views where neighbours in elevation, and then in distance, are further apart than `gaps`."""
    elevation_gap, distance_gap = gaps
    groups: list[list[int]] = []
    for level in _split(views, angles.elevation_deg, elevation_gap):
        groups += _split(level, angles.distance / angles.distance.mean(), distance_gap)
    return groups


def _split(views: Sequence[int], values: np.ndarray, gap: float) -> list[list[int]]:
    ordered = sorted(views, key=lambda view: values[view])
    cuts = np.flatnonzero(np.diff(values[ordered]) > gap) + 1 if ordered else []
    return [[int(view) for view in part] for part in np.split(np.array(ordered, dtype=int), cuts) if len(part)]


def _in_order(views: Sequence[int], angles: Angles) -> list[int]:
    """Return views counter-clockwise from azimuth 0. Of those at one azimuth only the source's first is kept."""
    kept: list[int] = []
    for view in sorted(views):
        apart = np.abs((angles.azimuth_deg[kept] - angles.azimuth_deg[view] + 180) % 360 - 180)
        if not (apart < MAX_STEP_ERROR_DEG).any():
            kept.append(view)
    return sorted(kept, key=lambda view: (angles.azimuth_deg[view] + MAX_STEP_ERROR_DEG) % 360)
