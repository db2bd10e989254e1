"""`main.py render`: renders 3D assets as orbits, with their cameras and the jsonl lines that `train` reads.

Many processes may share the work, and each may be killed at any time.
"""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from rendering.light import list_hdris
from rendering.orbits import ELSEWHERE, RENDERED, Setup, find_renderer, open_assets, render_assets
from rendering.queue.assets import Asset
from rendering.queue.output import Output
from rendering.queue.process import Stopped
from rendering.queue.settings import check_settings
from rendering.sheets import write_sheets
from utils.division import division_of
from utils.errors import one_line
from utils.progress import minutes_left
from utils.schemas_render import RenderConfig
from utils.signals import STOPPING, StopSignals, end_at_once

LAUNCHED = "TORCHELASTIC_RUN_ID"  # torch's launcher sets it, under accelerate's too
NUM_NAMES = 3  # of files that are left out


def render(cfg: RenderConfig) -> int:
    """Returns the exit code: 0, 1 if an asset of this process failed (filtered ones did not), 128 + n after signal n.

    Under torch's launcher it is 0 where it were 1.
    """
    render = cfg.render
    command = find_renderer(render).command(render.executable)
    hdris = list_hdris(Path(render.hdris)) if render.hdris else None
    source = open_assets(render)
    mine = division_of(os.environ).of(source.assets)
    # Whatever hangs, a second signal ends the process at once, as a SIGKILL would; its renderers end with it.
    signals = StopSignals(*STOPPING, on_second=end_at_once)
    with Output(Path(render.out).absolute(), render.held_out) as output, signals as stop:
        guest = check_settings(cfg, hdris, output)
        if render.retry_failures:
            output.forget_failures(asset.id for asset in mine)
        unfinished = output.open_ids((asset.id for asset in mine), guest)
        todo = [asset for asset in mine if asset.id in unfinished]
        announce(source.left_out, guest, len(todo))
        setup = Setup(cfg, command, hdris, source, output, guest)
        started = time.monotonic()
        try:
            with closing(render_all(todo, setup, stop.requested)) as results:
                counts = follow(results, len(mine), len(mine) - len(todo))
            complete = finish(setup, stop)
        except Stopped:
            if stop.number is None:
                raise
            print(f"stopped by {signal.Signals(stop.number).name}; the same command goes on from here")
            return 128 + stop.number
        print_summary(output, mine, counts, time.monotonic() - started, complete)
        _, failed = output.finished()
        has_failed = bool(counts["download"]) or any(failed.get(asset.id, "filtered") != "filtered" for asset in mine)
        # At the first process that ends with 1 torch's launcher stops the others, at whatever object they are.
        return int(has_failed and LAUNCHED not in os.environ)


def render_all(
    assets: Sequence[Asset], setup: Setup, stop_requested: Callable[[], bool]
) -> Iterator[tuple[Asset, str]]:
    """Yield as `render_assets` does, and at the end once more what other processes were at: one may have died since."""
    elsewhere = []
    with closing(render_assets(assets, setup, stop_requested)) as results:
        for asset, result in results:
            if result == ELSEWHERE:
                elsewhere.append(asset)
            yield asset, result
    left = setup.output.open_ids((asset.id for asset in elsewhere), setup.guest)
    with closing(render_assets([asset for asset in elsewhere if asset.id in left], setup, stop_requested)) as results:
        yield from results


def announce(left_out: Sequence[str], guest: str | None, num_objects: int) -> None:
    """Say which files are no assets, and what a renderer does in another one's folder."""
    if left_out:
        more = ", ..." if len(left_out) > NUM_NAMES else ""
        names = one_line(", ".join(left_out[:NUM_NAMES]))
        print(f"files left out, for their objects are there in a preferred format: {len(left_out)} ({names}{more})")
    if guest:
        print(f"the folder belongs to another renderer: {guest} takes the {num_objects} objects that it refused")


def finish(setup: Setup, stop: StopSignals) -> bool:
    """Sort the jsonl files and draw the sheets. Returns whether the list is finished. Raises Stopped."""
    if stop.requested():
        raise Stopped
    complete = setup.output.tidy(asset.id for asset in setup.source.assets)
    if stop.requested():
        raise Stopped
    if setup.cfg.render.sheet_rows:
        write_sheets(setup.output, setup.cfg.render.sheet_rows)
    return complete


def follow(results: Iterator[tuple[Asset, str]], total: int, done: int) -> Counter:
    """Show how far the rendering is; return how many assets ended how."""
    ended: dict[str, str] = {}  # the last word on each asset: some are tried twice
    counts = Counter()
    started = time.monotonic()
    with tqdm(total=total, initial=done, unit="object", disable=not sys.stderr.isatty()) as bar:
        for asset, result in results:
            if asset.id in ended:
                counts[ended[asset.id]] -= 1
            else:
                bar.update()
            counts[result] += 1
            ended[asset.id] = result
            bar.set_postfix({name: count for name, count in counts.items() if name != RENDERED}, refresh=False)
            if bar.disable and result == RENDERED:
                left = minutes_left(started, counts.total(), total - done)
                print(f"{asset.id}: {done + counts.total()} of {total}, {left:.1f} min left", flush=True)
    return counts


def print_summary(output: Output, mine: list[Asset], counts: Counter, seconds: float, complete: bool) -> None:
    rendered, failed = output.finished()
    kinds = Counter(failed[asset.id] for asset in mine if asset.id in failed) + Counter(download=counts["download"])
    filtered = kinds.pop("filtered", 0)
    detail = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    ended = f"{sum(asset.id in rendered for asset in mine)} rendered, {filtered} filtered, {kinds.total()} failed"
    here = counts.total() - counts[ELSEWHERE]
    print(f"{output.folder}: {ended}{f' ({detail})' if detail else ''} of {len(mine)} objects", end="")
    print(f"; {here} of them now, {seconds / here:.1f} s each" if here else "; nothing to do", end="")
    print(f"; {counts[ELSEWHERE]} left to other processes" if counts[ELSEWHERE] else "", end="")
    print("" if complete else "; the list is not finished yet", flush=True)
