"""`main.py check ... check.data=true`: looks at every record and every image of a run, and lists what is wrong with them."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dataset.local_copies import local_path
from dataset.looks import ENDS_TRAINING, KINDS, Look, look_at
from dataset.records import MAX_LINE_BYTES, numbered_lines
from dataset.turning import STRONG, USUALLY_LAST, judge_set, starts_further, surely_more_than
from training.loading import leave_interrupts, start_method
from utils.errors import UserError, one_line
from utils.files import new_file, open_file, write_atomically
from utils.progress import Progress
from utils.randomness import generator
from utils.schemas import TRAINED_ELEVATIONS_DEG, DataSettings, TrainConfig
from utils.sheets import label, sheet
from utils.urls import redacted

SHEET_ROWS = 24
PROBLEMS, ORBITS, WRONG = "problems.txt", "orbits.png", "problems.png"  # in check.report
TURNS_BACK = "it turns the other way than the rest, or is misread: look at it"
RING = re.compile(r"(.+)/ring_\d+")  # the ids of import_orbits
SHOWN = 8  # problems of a kind that are printed where check.report has them all


class LinesToCheck(Dataset):
    """The lines of a jsonl, each of which is looked at in a loading process."""

    def __init__(self, meta: str, data: DataSettings, seed: int):
        self.name = redacted(meta)
        self.path = local_path(meta, data.local_cache)
        self.data = data
        with open_file(self.path) as file:
            places = [(offset, number) for number, offset, _ in numbered_lines(file)]
        if not places:
            raise UserError(f"{self.name}: holds no record")
        self.offsets, self.numbers = np.array(places, dtype=np.int64).T
        order = torch.randperm(len(places), generator=generator(seed, 0, "order"))
        self.drawn = {*order[:SHEET_ROWS].tolist()}

    def __len__(self) -> int:
        return len(self.offsets)

    def place(self, index: int) -> str:
        return f"{self.name}:{self.numbers[index]}"

    def read(self, index: int) -> bytes:
        with open_file(self.path) as file:
            file.seek(self.offsets[index])
            return file.readline(MAX_LINE_BYTES + 1)

    def __getitem__(self, index: int) -> Look:
        return look_at(self.read(index), self.place(index), self.data, index in self.drawn)

    def looks(self) -> Iterator[Look]:
        """Look at all lines, in their order, in `data.num_workers` processes."""
        workers = self.data.num_workers
        loader = DataLoader(
            self,
            batch_size=None,
            num_workers=workers,
            worker_init_fn=leave_interrupts,
            multiprocessing_context=start_method(workers),
        )
        return iter(loader)


class Findings:
    """All problems: printed as they are found, counted by kind, and kept for check.report if that is asked for."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self._lines: list[str] = []
        self._rows: dict[str, dict[str, np.ndarray]] = {ORBITS: {}, WRONG: {}}

    def add(self, place: str, kind: str, text: str, progress: Progress) -> None:
        line = f"{place}: {kind}: {text}"
        line = one_line(line, limit=10 * len(line))  # uncut, though letters may be written as \U0010ffff
        self.counts[kind] += 1
        if self.folder is not None:
            self._lines.append(line)
        if self.folder is None or self.counts[kind] <= SHOWN:
            progress.say(line)

    def draw(self, look: Look, is_drawn: bool) -> None:
        """Keep the orbit's views for a sheet: those that were drawn, and the first with problems."""
        if look.tiles is None or self.folder is None:
            return
        texts = [f"{kind}: {text}" for kind, text in look.problems]
        row = {label(look.id, f"{look.place}, {look.elevation_deg:g} degrees", *texts): look.tiles}
        if is_drawn:
            self._rows[ORBITS] |= row
        if texts and len(self._rows[WRONG]) < SHEET_ROWS:
            self._rows[WRONG] |= row

    def write(self) -> None:
        """Write the files of check.report. A sheet without a row is not written, and an older one is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / PROBLEMS, "".join(f"{line}\n" for line in self._lines))
        for name, rows in self._rows.items():
            (self.folder / name).unlink(missing_ok=True)
            if rows:
                write_atomically(self.folder / name, sheet(rows))

    def summary(self) -> Iterator[str]:
        for kind, count in self.counts.most_common():
            yield f"{count} x {kind}: {KINDS[kind]}"
        if not self.counts:
            yield "no problem was found in the data"


def check_data(cfg: TrainConfig) -> bool:
    """Return whether training would end because of the data. Raises UserError for a file that cannot be read or written."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "check.data=true is for one process, which starts data.num_workers others: run it without a launch"
        )
    metas = [cfg.data.meta, cfg.validation.meta]
    clean = Path(cfg.check.write_clean) if cfg.check.write_clean else None
    if clean and clean.resolve() in [Path(meta).resolve() for meta in metas]:
        raise UserError(f"check.write_clean: {clean} is what is checked: choose another file")
    findings = Findings(Path(cfg.check.report) if cfg.check.report else None)
    training, held_out = (LinesToCheck(meta, cfg.data, cfg.run.seed) for meta in metas)
    seen: dict[int, str] = {}
    tally = look_at_file(training, findings, seen, None)
    look_at_file(held_out, findings, seen, tally)
    print(f"looked at all views of {len(training)} training and {len(held_out)} held-out orbits")
    for line in findings.summary():
        print(line)
    if findings.folder is not None:
        findings.write()
        print(f"{findings.folder}: {PROBLEMS} has all problems, {ORBITS} and {WRONG} show orbits")
    if clean:
        write_clean(clean, training, sorted(tally.good))
    return any(findings.counts[kind] for kind in ENDS_TRAINING)


@dataclass
class Tally:
    """What a whole file is judged by. Orbits are known by the places of their lines, from 0."""

    elevations: dict[int, float] = field(default_factory=dict)
    evidence: dict[int, float] = field(default_factory=dict)  # of the way they turn
    open_ends: list[bool] = field(default_factory=list)
    good: set[int] = field(default_factory=set)  # lines without a problem
    backwards: list[Look] = field(default_factory=list)  # the first that turn clockwise, to be drawn if others do not

    def note(self, index: int, look: Look) -> None:
        if not look.problems:
            self.good.add(index)
        if look.elevation_deg is not None:
            self.elevations[index] = look.elevation_deg
        if look.evidence is not None:
            self.evidence[index] = look.evidence
            if look.evidence <= -STRONG and len(self.backwards) < SHEET_ROWS:
                self.backwards.append(look)
        if look.ends_open is not None:
            self.open_ends.append(look.ends_open)


def look_at_file(lines: LinesToCheck, findings: Findings, seen: dict[int, str], trained: Tally | None) -> Tally:
    """Look at all lines of a file. `seen` holds what orbits are known by; `trained` is of the orbits to train on."""
    tally = Tally()
    with Progress(len(lines), "orbits") as progress:
        starts = Starts()
        for index, look in enumerate(lines.looks()):
            look.problems += known_already(look, seen)
            look.problems += starts.problems(look)
            for kind, text in look.problems:
                findings.add(look.place, kind, text, progress)
            findings.draw(look, index in lines.drawn)
            tally.note(index, look)
            progress.advance()
        found = [*turn_problems(lines, tally), *elevation_problems(lines, tally, trained)]
        for place, kind, text in found:
            findings.add(place, kind, text, progress)
    named = {place for place, _, _ in found}
    for look in tally.backwards:
        if look.place in named:
            look.problems.append(("turn", TURNS_BACK))
            findings.draw(look, is_drawn=False)
    return tally


class Starts:
    """Compares the orbits of an object, which our import writes next to each other, with the first of them."""

    def __init__(self):
        self._object: str | None = None
        self._first: Look | None = None

    def problems(self, look: Look) -> Iterator[tuple[str, str]]:
        ring = RING.fullmatch(look.id)
        if not ring or look.outlines is None:
            return
        if ring[1] != self._object:
            self._object, self._first = ring[1], look
            return
        degrees = starts_further(self._first.outlines, look.outlines)
        if degrees is not None:
            text = f"starts about {degrees:+.0f} degrees from where {self._first.id} of {self._first.place} does"
            yield "start", text


def turn_problems(lines: LinesToCheck, tally: Tally) -> Iterator[tuple[str, str, str]]:
    """Judge the set first, and then single orbits against it. These are taken out of the good ones."""
    way, text = judge_set([*tally.evidence.values()])
    if text:
        yield lines.name, "turn", text
    for index in (index for index, value in tally.evidence.items() if value * way <= -STRONG):
        tally.good.discard(index)
        yield lines.place(index), "turn", TURNS_BACK
    count, total = sum(tally.open_ends), len(tally.open_ends)
    if surely_more_than(count, total) > USUALLY_LAST:
        text = f"in {count} of {total} orbits the step from the last view to the first is the largest"
        yield lines.name, "turn", f"{text}: they may not go all the way around"


def known_already(look: Look, seen: dict[int, str]) -> list[tuple[str, str]]:
    """Say where an orbit stood before under the same id, with the same first image, or with the same pixels."""
    found = []
    for name, mark in look.marks.items():
        place = seen.setdefault(hash((name, mark)), look.place)
        if place is not look.place:
            found.append(f"{name} of {place}")
    return [("twice", f"has the {', the '.join(found)}")] if found else []


def elevation_problems(lines: LinesToCheck, tally: Tally, trained: Tally | None) -> Iterator[tuple[str, str, str]]:
    """Name the lines outside the paper's elevations, and outside those of the training: one text each, not one a line."""
    limits = {"the paper": TRAINED_ELEVATIONS_DEG}
    if trained and trained.elevations:
        span = trained.elevations.values()
        limits["the training orbits"] = (min(span), max(span))
    for whose, (low, high) in limits.items():
        outside = [int(lines.numbers[index]) for index, value in tally.elevations.items() if not low <= value <= high]
        if outside:
            count = f"{len(outside)} of {len(tally.elevations)} orbits, in lines {ranges(outside)}"
            text = f"outside the {low:g} to {high:g} degrees of {whose}: {count}"
            yield lines.name, "elevation", text


def ranges(numbers: list[int]) -> str:
    """Write ascending numbers briefly: 1-3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def write_clean(path: Path, lines: LinesToCheck, good: list[int]) -> None:
    """Write the good lines byte for byte. Raises UserError if there is none."""
    if not good:
        raise UserError(f"check.write_clean: {lines.name} has no line without a problem, and {path} is not written")
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as file:
        file.writelines(lines.read(index) for index in good)
    print(f"{path}: {len(good)} of {len(lines)} lines, those without a problem")
