"""Which way an orbit turns, whether its views are in order, and whether two orbits of an object start at the same azimuth.

All of it is told from small views alone.

A camera that goes counter-clockwise, seen from above, sees the side that faces it move to the left. So we take the object
for a solid of revolution, turn what view i shows by one step to the left and to the right, and see which is nearer to view
i + 1. No single orbit can be judged for certain: a bowl looks the same from all sides, and what has four equal sides seems
to turn backwards, as a wheel in a film does. docs/data.md says how often these judgements were right.
"""

import math
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 64, 32  # of a small view: what turns moves along its rows
MIN_VIEWS, MAX_VIEWS = 12, 30  # of a circle that can be judged; of a longer one every n-th view is taken
RADII = (1.0, 0.85, 0.7, 0.5, 0.3)  # of the surfaces that a point may lie on, in the object's radius at its height
# Points of the half that is seen: the sine of the angle to the camera.
FACING = np.linspace(-0.8, 0.8, 16, dtype=np.float32)
MIN_RADIUS_PX = 3
NOT_THE_GROUND = 0.03  # difference from white of what belongs to the object
LIKE_ANOTHER_START = 0.8  # an orbit that starts elsewhere differs by less than so many times as much from there
SYMMETRIC = 0.7  # views further apart differ by less than so many times what neighbours do
IN_ORDER, BY_LAG = 0.3, 0.15  # a correlation and a share of variance; views below both are not in order
JUDGED = 2.0  # the evidence from which an orbit counts for its set
STRONG = 4.0  # the evidence from which a single orbit is called odd
CERTAIN = 3.09  # standard deviations of a one-sided confidence of 99.9 %
USUALLY_WRONG = 0.1  # more than this share of a set that turns the right way never seems to turn the other way
USUALLY_LAST = 0.3  # the same, for the orbits whose largest step leads from the last view to the first


def some_views(views: np.ndarray) -> np.ndarray:
    """Return at most MAX_VIEWS of V views, in equal strides once around."""
    count = max(count for count in range(1, MAX_VIEWS + 1) if len(views) % count == 0)
    return views[:: len(views) // count]


def distances(views: np.ndarray) -> np.ndarray:
    """Return the root mean square difference of every two of V views: V V."""
    flat = views.reshape(len(views), -1)
    products = flat @ flat.T
    squares = np.diag(products)
    return np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0) / flat.shape[1])


def steps(apart: np.ndarray, lag: int = 1) -> np.ndarray:
    """Return how much each of V views differs from the one `lag` further around: V."""
    places = np.arange(len(apart))
    return apart[places, (places + lag) % len(apart)]


def in_order(apart: np.ndarray) -> bool:
    """Whether V V distances are those of views that follow each other around an object.

    Two views then differ about as much as the two that follow them do; or, of what is nearly symmetric, distances depend on
    how far apart on the circle two views are. Without an order neither is so.
    """
    others = ~np.eye(len(apart), dtype=bool)
    following = np.roll(apart, (-1, -1), axis=(0, 1))
    spread = apart[others].std() * following[others].std()
    covariance = (apart[others] * following[others]).mean() - apart[others].mean() * following[others].mean()
    by_lag = np.stack([steps(apart, lag) for lag in range(1, len(apart))])
    return bool(covariance >= IN_ORDER * spread or by_lag.mean(axis=1).var() >= BY_LAG * by_lag.var())


def turn_evidence(views: np.ndarray, apart: np.ndarray) -> float | None:
    """Say which way V HEIGHT WIDTH 3 views in [0, 1] on white turn; `apart` are their distances.

    Above 0 they turn as our orbits do, by so many standard errors of the mean over all steps. None: they cannot be judged.
    """
    num_views = len(views)
    lags = range(3, num_views // 2 + 1)
    if min(np.median(steps(apart, lag)) for lag in lags) < SYMMETRIC * np.median(steps(apart)):
        return None
    centre = (WIDTH - 1) / 2
    shown = (1 - views.min(axis=-1) > NOT_THE_GROUND).any(axis=0)  # H W
    radius = (shown * abs(np.arange(WIDTH) - centre)).max(axis=1)
    rows = np.flatnonzero(radius >= MIN_RADIUS_PX)
    if len(rows) < MIN_RADIUS_PX:
        return None
    angle = 2 * np.pi / num_views
    errors = {-1: np.inf, 1: np.inf}  # V rows points
    for share in RADII:
        reach = share * radius[rows, None].astype(np.float32)
        here = _at(views, rows, centre + reach * FACING)
        for way in errors:
            there = _at(views, rows, centre + reach * np.sin(np.arcsin(FACING) + way * angle))
            error = np.square(here - np.roll(there, -1, axis=0)).sum(axis=-1)
            errors[way] = np.minimum(errors[way], error)
    left, right = (errors[way].mean(axis=(1, 2)) for way in (-1, 1))
    votes = (right - left) / (right + left + 1e-6)  # V
    return float(votes.mean() / (votes.std() / num_views**0.5 + 1e-9))


def _at(views: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Read views between pixels: V R T 3, at `columns` (R T) of each of the R rows."""
    left = columns.astype(int).clip(0, WIDTH - 2)
    share = (columns - left)[..., None].astype(np.float32)
    return views[:, rows[:, None], left] * (1 - share) + views[:, rows[:, None], left + 1] * share


def outlines(views: np.ndarray) -> np.ndarray:
    """Return how much of each column of V H W 3 views on white the object covers: V W in [0, 1].

    The elevation changes that only a little, and the light not at all where views are transparent around the object.
    """
    return (1 - views.min(axis=-1) > NOT_THE_GROUND).mean(axis=1)


def starts_further(one: np.ndarray, other: np.ndarray) -> float | None:
    """Say by how many degrees `other` starts further around than `one`, in (-180, 180]; both are outlines of one object.

    None: at the same azimuth, but for a step, since a ring may begin with its first view after azimuth 0; or it cannot be
    told, as of what looks the same from several sides, and of two that turn different ways.
    """
    num_views = math.gcd(len(one), len(other))
    if num_views < MIN_VIEWS:
        return None
    one, other = (some_views(views[:: len(views) // num_views]) for views in (one, other))
    num_views = len(one)
    shifts = range(num_views)
    apart = np.square(one[:, None] - other[None]).mean(axis=-1) ** 0.5
    by_shift = np.stack([steps(apart, shift) for shift in shifts])  # shift, view
    means = by_shift.mean(axis=1)
    if min(steps(apart[:, ::-1], shift).mean() for shift in shifts) < means.min():
        return None
    shift = int(means.argmin())
    nearer = by_shift[0] - by_shift[shift]
    evidence = nearer.mean() / (nearer.std() / num_views**0.5 + 1e-9)
    if shift in (0, 1, num_views - 1) or evidence < STRONG or means[shift] >= LIKE_ANOTHER_START * means[0]:
        return None
    turn = -shift * 360 / num_views % 360
    return turn - 360 if turn > 180 else turn


def surely_more_than(count: int, total: int) -> float:
    """Return the share that `count` of `total` surely exceeds: the lower bound of Wilson's interval."""
    if not total:
        return 0.0
    share = count / total
    half_width = CERTAIN * (share * (1 - share) / total + CERTAIN**2 / (4 * total**2)) ** 0.5
    return (share + CERTAIN**2 / (2 * total) - half_width) / (1 + CERTAIN**2 / total)


def judge_set(evidence: Sequence[float]) -> tuple[int, str | None]:
    """Return which way a set turns (1: as our orbits, -1: the other way), and what is wrong with that, if anything."""
    right = sum(value >= JUDGED for value in evidence)
    wrong = sum(value <= -JUDGED for value in evidence)
    counts = f"of {right + wrong} that can be judged, {wrong} seem to turn clockwise, seen from above"
    sure = surely_more_than(wrong, right + wrong)
    if sure > 0.5:
        return -1, f"the camera goes the wrong way around: {counts}; write image_path in the opposite order"
    return 1, f"part of the orbits go the wrong way around: {counts}" if sure > USUALLY_WRONG else None
