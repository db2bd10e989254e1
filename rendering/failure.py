"""Why an asset did not become an orbit, as `failures.jsonl` says it."""

from utils.errors import one_line

MAX_REASON = 300  # characters
KINDS = {
    "unreadable": "the file is damaged, too large, or points outside its folder; no renderer saw it",
    "refused": "the renderer cannot draw it, or cannot draw it right",
    "crashed": "the process that checked or rendered it failed",
    "timeout": "its check, or its rendering, took longer than render.time_limit_s",
    "memory": "its check, or its rendering, took more than render.memory_limit_gib",
    "filtered": "rendered, but left out on purpose: see the filter section",
    "download": "could not be fetched; not written down, so that the next run tries again",
}


class Failure(Exception):
    """What costs one asset, not the run. `kind` is one of KINDS; the reason is one short printable line, the same in every run."""

    def __init__(self, kind: str, reason: str):
        assert kind in KINDS, kind
        super().__init__(one_line(reason, MAX_REASON))
        self.kind = kind

    @property
    def reason(self) -> str:
        return str(self)
