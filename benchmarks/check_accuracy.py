"""How often `check.data=true` is right about orbits that are known to be good, and about what is made of them.

    python benchmarks/check_accuracy.py runs/tiny_base_data/orbits

The folder is `tiny_base`'s: one with a svd_meta.jsonl for each source and light. Orbits are judged from small views, as the
check does; pairs are of one asset in two lights, at two elevations. docs/data.md has the numbers.
"""

import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from dataset.looks import small_view
from dataset.records import OrbitRecord, Records
from dataset.sources import open_views
from dataset.turning import (
    JUDGED,
    STRONG,
    distances,
    in_order,
    outlines,
    starts_further,
    steps,
    turn_evidence,
)
from utils.progress import Progress
from utils.schemas import DataSettings

NUM_VIEWS = 21
CUT_OFF = 3  # views that are left out at the end, of an orbit that does not go all the way around


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = Path(sys.argv[1])
    sources = {meta.parent: Records(meta, NUM_VIEWS) for meta in sorted(root.glob("*/svd_meta.jsonl"))}
    counts: Counter[str] = Counter()
    same_object: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    random = np.random.default_rng(0)
    with Progress(sum(map(len, sources.values())), "orbits") as progress:
        for folder, records in sources.items():
            for record in records:
                views = views_of(record, folder)
                apart = distances(views)
                counts.update(judge_orbit(views, apart, random))
                if in_order(apart):
                    same_object[folder.name.partition("_")[0], record.id].append(outlines(views))
                progress.advance()
    for orbits in same_object.values():
        for other in orbits[1:]:
            counts.update(judge_pair(orbits[0], other, random))
    for what, count in sorted(counts.items()):
        print(f"{count:6} {what}")


def views_of(record: OrbitRecord, root: Path) -> np.ndarray:
    data = DataSettings(root=str(root), meta="")
    return np.stack([small_view(image) for _, image in open_views(record, data, range(NUM_VIEWS))])


def judge_orbit(views: np.ndarray, apart: np.ndarray, random: np.random.Generator) -> list[str]:
    found = ["good orbits"]
    if not in_order(apart):
        found.append("good orbits: out of order")
    shuffled = random.permutation(NUM_VIEWS)
    if not in_order(apart[np.ix_(shuffled, shuffled)]):
        found.append("shuffled orbits: out of order")
    evidence = turn_evidence(views, apart)
    if evidence is None:
        found.append("turn: too symmetric")
    else:
        found += [
            f"turn: {'right' if evidence > 0 else 'wrong'}, evidence from {level:g} on"
            for level in (0, JUDGED, STRONG)
            if abs(evidence) >= level
        ]
    if steps(apart).argmax() == NUM_VIEWS - 1:
        found.append("good orbits: the last step is the largest")
    left = apart[:-CUT_OFF, :-CUT_OFF]
    if steps(left).argmax() == len(left) - 1:
        found.append(f"orbits without {CUT_OFF} views: the last step is the largest")
    return found


def judge_pair(one: np.ndarray, other: np.ndarray, random: np.random.Generator) -> list[str]:
    """Compare where two orbits of an asset start: as they are, and with one turned by 2 to 19 views."""
    found = ["pairs"]
    if starts_further(one, other) is not None:
        found.append("pairs: said to start elsewhere")
    shift = int(random.integers(2, NUM_VIEWS - 1))
    turned = np.roll(other, -shift, axis=0)
    degrees = starts_further(one, turned)
    if degrees is not None:
        error = (degrees - shift * 360 / NUM_VIEWS + 180) % 360 - 180
        found.append(f"turned pairs: found, {'right' if abs(error) < 1.5 * 360 / NUM_VIEWS else 'wrong'} azimuth")
    if starts_further(one, turned[::-1]) is not None:
        found.append("pairs that turn different ways: said to start elsewhere")
    return found


if __name__ == "__main__":
    main()
