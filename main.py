"""SVD-MV's one door: `main.py COMMAND [RUN] [CONFIG.yaml] [section.key=value ...]`. A command is imported only when asked for."""

import errno
import importlib
import sys

COMMANDS = {
    "train": "fine-tune SVD into a multi-view model: main.py train CONFIG.yaml [section.key=value ...]",
    "check": "print the resolved config and what follows from it, without training: main.py check CONFIG.yaml [...]",
    "render": "3D assets -> orbits to train on: main.py render CONFIG.yaml render.assets=FOLDER render.out=FOLDER",
    "sample": "views around the object of each image: main.py sample runs/NAME sample.image=FILE sample.out=FOLDER [...]",
    "evaluate": "numbers and a page from held-out orbits: main.py evaluate runs/NAME evaluate.meta=FILE.jsonl evaluate.out=FOLDER",
    "export": "a folder for stock diffusers: main.py export runs/NAME export.out=FOLDER",
    "tiny_base": "write a tiny random SVD in the diffusers layout: main.py tiny_base [tiny_base.out=FOLDER]",
    "dummy_objaverse": "render the small dataset of solid objects: main.py dummy_objaverse [dummy_objaverse.out=FOLDER]",
}


def usage():
    rows = "\n".join(f"  {name:<16} {line}" for name, line in COMMANDS.items())
    line = "usage: python main.py COMMAND [RUN] [CONFIG.yaml] [section.key=value ...]"
    return f"{line}\n\ncommands:\n{rows}\n\n`python main.py COMMAND --help` lists its keys."


def main(argv):
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if sys.version_info < (3, 11):  # noqa: UP036
        print("error: SVD-MV needs Python 3.11 or newer, this is {}.{}".format(*sys.version_info[:2]), file=sys.stderr)
        return 2
    from utils.config import describe, load_config
    from utils.errors import UserError
    from utils.schemas import SCHEMAS

    command, arguments = argv[0], argv[1:]
    try:
        if command not in COMMANDS:
            raise UserError(f"unknown command '{command}'; the commands are: {', '.join(COMMANDS)}")
        if "-h" in arguments or "--help" in arguments:
            print(f"{COMMANDS[command]}\n\n{describe(SCHEMAS[command])}")
            return 0
        cfg = load_config(SCHEMAS[command], arguments)
        return getattr(importlib.import_module(f"commands.{command}"), command)(cfg) or 0
    except UserError as error:
        # A data loader's worker puts its traceback in front of the message.
        message = str(error).rpartition("utils.errors.UserError: ")[2]
        sys.stderr.write(f"error: {' '.join(message.split())}\n")  # in one piece: other ranks write too
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EEXIST):
            raise
        sys.stderr.write(f"error: {error.filename or 'a file'}: cannot be written or read: {error.strerror}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
