"""The division of work among the processes of a Slurm array and of a launcher, none of which talks to another."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from utils.errors import UserError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Division:
    """Every `count`-th item, from `index`."""

    index: int
    count: int

    def of(self, items: Sequence[Item]) -> list[Item]:
        return list(items[self.index :: self.count])


def division_of(environment: Mapping[str, str]) -> Division:
    """Return the part of this process: of a task of a Slurm array (any first id, any step) x a process within the task.

    That is a process of `accelerate launch` (RANK of WORLD_SIZE, which can be set by hand too) or of `srun`. Raises UserError for
    an array with gaps.
    """
    tasks = _division_of_array(environment)
    if "WORLD_SIZE" in environment:
        processes = Division(_number(environment, "RANK"), _number(environment, "WORLD_SIZE"))
    elif "SLURM_STEP_NUM_TASKS" in environment:
        # Only srun sets this one, while SLURM_NTASKS also stands in a batch script's own shell.
        processes = Division(_number(environment, "SLURM_PROCID"), _number(environment, "SLURM_STEP_NUM_TASKS"))
    else:
        processes = Division(0, 1)
    if not 0 <= processes.index < processes.count:
        raise UserError(f"process {processes.index} of {processes.count} cannot be: see RANK and WORLD_SIZE")
    return Division(tasks.index * processes.count + processes.index, tasks.count * processes.count)


def place_on_machine(environment: Mapping[str, str]) -> int:
    """Return which process of its machine this is. RANK, where it is set by hand, is taken for that. Raises UserError."""
    if "LOCAL_RANK" in environment:
        return _number(environment, "LOCAL_RANK")
    if "WORLD_SIZE" in environment:
        return _number(environment, "RANK")
    return _number(environment, "SLURM_LOCALID") if "SLURM_STEP_NUM_TASKS" in environment else 0


def processes_on_machine(environment: Mapping[str, str]) -> int:
    """Return how many processes of a launcher, or of `srun`, share this machine. Raises UserError."""
    if "LOCAL_WORLD_SIZE" in environment:
        return _number(environment, "LOCAL_WORLD_SIZE")
    if "SLURM_STEP_NUM_TASKS" in environment and "WORLD_SIZE" not in environment:
        # Such as 4(x2),3: four on each of two machines, and three on another.
        counts = re.findall(r"(?:^|,)(\d+)", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
        return max(map(int, counts), default=1)
    return 1


def own_gpu(environment: Mapping[str, str]) -> str | None:
    """Return what CUDA_VISIBLE_DEVICES has to be for a GPU of one's own, or None where this process may have all.

    If the variable is set and names fewer GPUs than there are processes, some share one. Raises UserError.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if processes_on_machine(environment) == 1 or visible == "":
        return None
    place = place_on_machine(environment)
    if visible is None:
        return str(place)
    names = visible.split(",")
    return names[place % len(names)]


def _division_of_array(environment: Mapping[str, str]) -> Division:
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return Division(0, 1)
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT")
    task, first, last, count = (_number(environment, name) for name in names)
    step = (last - first) // (count - 1) if count > 1 else 1
    if first + step * (count - 1) != last or (task - first) % step:
        raise UserError(
            f"a Slurm array of {count} tasks from {first} to {last} has gaps, so the work cannot be divided by it:"
            " submit the whole array again; what is done already is left alone"
        )
    return Division((task - first) // step, count)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise UserError(f"the environment variable {name} must be a number, found '{text}'")
    return int(text)
