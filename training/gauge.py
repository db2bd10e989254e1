"""How fast a run goes and how much memory it takes, for its log. Devices are read at the log's lines alone."""

from training.launch import Accelerator, gather_objects
from training.memory import memory_peaks
from training.window import Window


def read_gauge(window: Window, accelerator: Accelerator) -> dict[str, float]:
    """Return a device's orbits/s, and the highest peaks of memory of all ranks, in GiB. Collective."""
    speed = {"orbits_per_s_per_device": window.means()["orbits_per_s"] / accelerator.num_processes}
    peaks = gather_objects([memory_peaks(accelerator.device)])
    return speed | {name: max(peak[name] for peak in peaks) for name in peaks[0]}
