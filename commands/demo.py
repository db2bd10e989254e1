"""`main.py demo`: a page on this machine. One drops an image, chooses an elevation and a seed, and turns the sampled orbit.

The work is that of `sample`, one request at a time. Everything that is uploaded or sampled lies in one temporary folder,
whose oldest files are removed when it grows too large, and which is removed at the end. Nothing goes to another machine.
"""

import ipaddress
import os
import signal
import socket
import tempfile
from pathlib import Path

from commands.demo_studio import Studio
from commands.sample import as_trained, background_remover
from models.svd import require_size
from training.launch import launched_accelerator
from training.saved_model import find_saved_model, load_saved_model, require_elevation
from utils.errors import UserError
from utils.images import allow_only_image_formats
from utils.schemas import DemoConfig
from utils.signals import StopSignals

MAX_UPLOAD_BYTES = 32 << 20
TIDY_SECONDS = 10  # between two looks at the temporary folder


def demo(cfg: DemoConfig) -> None:
    accelerator = launched_accelerator()
    if accelerator.num_processes > 1:
        raise UserError("demo runs in one process: start it without a launch of several")
    saved = find_saved_model(cfg.demo)
    require_elevation(saved)
    settings = as_trained(cfg.demo, saved)
    if settings.remove_background:
        background_remover()  # so that what is missing is said now
    with (
        listening(settings.host, settings.port) as listener,
        tempfile.TemporaryDirectory(prefix=f"svd_mv_demo.{os.getpid()}.") as folder,
    ):
        prepare_gradio(Path(folder))
        svd = load_saved_model(saved, accelerator)
        require_size(svd.unet, svd.encoders, settings.size_px)
        studio = Studio(svd, saved, settings, accelerator.mixed_precision, Path(folder))
        serve(studio, listener)
        studio.finish()
    accelerator.end_training()
    print("stopped")


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. Raises UserError if the port is taken, or the address is not this machine's."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]  # where, we say ourselves
        raise UserError(f"demo.host={host} demo.port={port}: cannot listen there: {reason}") from None


def prepare_gradio(folder: Path) -> None:
    """Have Gradio keep its files in `folder` and send nothing to its makers. It reads the environment when it is imported.

    Raises UserError if it is not installed.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(f"demo needs `pip install 'gradio>=6.31,<7'` ({error})") from None
    allow_only_image_formats()  # Gradio opens images too


def serve(studio: Studio, listener: socket.socket) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    import uvicorn

    from commands.demo_page import web_app

    class Server(uvicorn.Server):
        def handle_exit(self, sig, frame):
            studio.end()
            super().handle_exit(sig, frame)

    async def tidy() -> None:
        studio.tidy()

    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        web_app(studio, allowed_hosts(host), MAX_UPLOAD_BYTES),
        log_level="warning",
        callback_notify=tidy,
        timeout_notify=TIDY_SECONDS,
        timeout_graceful_shutdown=1,  # a page that is open holds a connection open
    )
    print(f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C stops)", flush=True)
    with StopSignals(signal.SIGINT, signal.SIGTERM):  # uvicorn raises again what it was stopped by
        Server(config).run(sockets=[listener])


def allowed_hosts(host: str) -> list[str]:
    """Return the names under which the page may be asked for.

    On the loopback address these are its own. Otherwise a page of somebody else's, whose name leads to this address, could
    use ours with the user's browser.
    """
    return [host, f"[{host}]", "localhost", "127.0.0.1"] if ipaddress.ip_address(host).is_loopback else ["*"]
