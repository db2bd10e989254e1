"""Speed and memory in the log."""

from training.gauge import read_gauge
from training.launch import launched_accelerator
from training.window import Window


def test_speed_is_divided_by_the_devices_and_memory_is_the_highest_of_all_ranks(monkeypatch):
    window = Window(samples=[(1.0, 0.0)] * 12, grad_norms=[1.0, 1.0], seconds=2.0)
    accelerator = launched_accelerator()
    peaks = [
        {"peak_memory_gib": 3.0, "peak_memory_reserved_gib": 4.0},
        {"peak_memory_gib": 2.0, "peak_memory_reserved_gib": 5.0},
    ]
    monkeypatch.setattr("training.gauge.gather_objects", lambda mine: peaks)
    monkeypatch.setattr(type(accelerator), "num_processes", 2)
    assert read_gauge(window, accelerator) == {
        "orbits_per_s_per_device": 3.0,
        "peak_memory_gib": 3.0,
        "peak_memory_reserved_gib": 5.0,
    }
