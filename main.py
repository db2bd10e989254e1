"""SVD-MV's one door: `main.py COMMAND [RUN] [CONFIG.yaml] [section.key=value ...]`. A command is imported only when asked for."""

import errno
import importlib
import os
import signal
import sys

COMMANDS = {  # command: (the schema of its config, a line of help)
    "train": (
        "utils.schemas.TrainConfig",
        "fine-tune SVD into a multi-view model: main.py train CONFIG.yaml [section.key=value ...]",
    ),
    "check": (
        "utils.schemas.TrainConfig",
        "print the resolved config and what follows from it, without training: main.py check CONFIG.yaml [...]",
    ),
    "render": (
        "utils.schemas_render.RenderConfig",
        "3D assets -> orbits to train on: main.py render CONFIG.yaml render.assets=FOLDER render.out=FOLDER",
    ),
    "cache": (
        "utils.schemas.CacheConfig",
        "encode all training views once: main.py cache CONFIG.yaml cache.out=FOLDER, then train with data.cache=FOLDER",
    ),
    "import_orbits": (
        "utils.schemas_import.ImportOrbitsConfig",
        "renders of others -> orbits: main.py import_orbits import_orbits.source=FOLDER import_orbits.out=FOLDER [...]",
    ),
    "index_archives": (
        "utils.schemas_import.IndexArchivesConfig",
        "orbits in tars or zips: main.py index_archives index_archives.root=FOLDER index_archives.meta=FILE.jsonl [...]",
    ),
    "sample": (
        "utils.schemas.SampleConfig",
        "views around the object of each image: main.py sample runs/NAME sample.image=FILE sample.out=FOLDER [...]",
    ),
    "demo": (
        "utils.schemas.DemoConfig",
        "a page on this machine: drop an image, turn the object, download its views: main.py demo runs/NAME [...]",
    ),
    "evaluate": (
        "utils.schemas.EvaluateConfig",
        "numbers and a page from held-out orbits: main.py evaluate runs/NAME evaluate.meta=FILE.jsonl evaluate.out=FOLDER",
    ),
    "export": (
        "utils.schemas.ExportConfig",
        "a folder for stock diffusers: main.py export runs/NAME export.out=FOLDER",
    ),
    "tiny_base": (
        "utils.schemas.TinyBaseConfig",
        "pretrain a tiny SVD on turntables: main.py tiny_base train_config/tiny_base.yaml tiny_base.assets=FOLDER",
    ),
    "dummy_objaverse": (
        "utils.schemas_render.DummyObjaverseConfig",
        "render the small dataset of solid objects: main.py dummy_objaverse [dummy_objaverse.out=FOLDER]",
    ),
    "configuration": (
        "utils.schemas.ConfigurationConfig",
        "write the page of all keys: main.py configuration [configuration.out=FILE.md]",
    ),
}
USER_FIXES = {  # errors of the operating system that a user can fix
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR,
    errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.EIO, errno.ESTALE, errno.ENOTCONN,
}  # fmt: skip


def usage() -> str:
    rows = "\n".join(f"  {name:<16} {line}" for name, (_, line) in COMMANDS.items())
    line = "usage: python main.py COMMAND [RUN] [CONFIG.yaml] [section.key=value ...]"
    return f"{line}\n\ncommands:\n{rows}\n\n`python main.py COMMAND --help` lists its keys."


def schema_of(command: str) -> type:
    module, _, name = COMMANDS[command][0].rpartition(".")
    return getattr(importlib.import_module(module), name)


def main(argv: list[str]) -> int:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it is closed, as by `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if sys.version_info < (3, 11):  # noqa: UP036
        print("error: SVD-MV needs Python 3.11 or newer, this is {}.{}".format(*sys.version_info[:2]), file=sys.stderr)
        return 2
    from utils.errors import UserError, drop_output, one_line
    from utils.signals import Interrupted, Interrupts

    try:
        with Interrupts():
            code = run(argv[0], argv[1:])
            sys.stdout.flush()
            return code
    except UserError as error:
        # A loading process of PyTorch puts its traceback in front of the message.
        message = str(error).rpartition("utils.errors.UserError: ")[2]
    except BrokenPipeError:  # who read our output has gone, as in `main.py check ... | head`
        drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in USER_FIXES:
            raise
        name = error.filename or "a file, or the output"
        message = (
            f"{os.fsdecode(name) if isinstance(name, bytes) else name}: cannot be written or read: {error.strerror}"
        )
    except Interrupted as interrupted:
        sys.stderr.write(f"stopped by {signal.Signals(interrupted.number).name}\n")
        return 128 + interrupted.number
    sys.stderr.write(f"error: {one_line(message)}\n")  # in one piece, since other ranks write too
    try:
        sys.stdout.flush()
    except OSError:  # it was the output that could not be written
        drop_output()
    return 2


def run(command: str, arguments: list[str]) -> int:
    from utils.config import describe, load_config
    from utils.errors import UserError, cut

    if command not in COMMANDS:
        raise UserError(f"unknown command '{cut(command)}'; the commands are: {', '.join(COMMANDS)}")
    if "-h" in arguments or "--help" in arguments:
        print(f"{COMMANDS[command][1]}\n\n{describe(schema_of(command))}")
        return 0
    cfg = load_config(schema_of(command), arguments)
    return getattr(importlib.import_module(f"commands.{command}"), command)(cfg) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
