"""The process in which one asset is checked: `python worker.py JOB.json`, with {"asset": ..., "max_bytes": ..., "result": ...}.

Whatever happens to it (an exception, a hang, memory) happens to that asset alone. It writes {"failure": null} to `result`,
or {"failure": [kind, reason]}. It imports neither numpy nor a renderer, since it is started for every asset.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from rendering.failure import Failure
from rendering.safety.asset import check_asset


def main(job_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    failure = None
    try:
        check_asset(Path(job["asset"]), job["max_bytes"])
    except Failure as error:
        failure = [error.kind, error.reason]
    Path(job["result"]).write_text(json.dumps({"failure": failure}))


if __name__ == "__main__":
    main(sys.argv[1])
