"""Why an asset did not become an orbit, as `failures.jsonl` says it."""

from utils.errors import ItemFailure

KINDS = {
    "unreadable": "the file is damaged, too large, or points outside its folder; no renderer saw it",
    "refused": "the renderer cannot draw it, or cannot draw it right",
    "crashed": "the process that checked or rendered it failed",
    "timeout": "its check, or its rendering, took longer than render.time_limit_s",
    "memory": "its check, or its rendering, took more than render.memory_limit_gib",
    "filtered": "rendered, but left out on purpose: see the filter section",
    "download": "could not be fetched; not written down, so that the next run tries again",
}


class Failure(ItemFailure):
    """Why an asset failed, in the same words in every run."""

    KINDS = KINDS
