"""The page of `demo`, in Gradio: what one can choose, what is shown, and what answers a click."""

import base64
import importlib.util
import io
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from commands.demo_studio import MAX_WAITING, SamplingStopped, Studio
from evaluation.turntable import SCRIPT, STYLE
from utils.errors import UserError, one_line
from utils.video import to_uint8

if TYPE_CHECKING:
    import fastapi
    import gradio

TITLE = "Views around an object"
HINT = "Drop an image of an object, say how high its camera was, and sample."
MOST_STEPS = 100  # of the slider, unless the settings have more
# The browser fetches nothing from another machine.
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
PAGE_STYLE = """
.gradio-container { width: 100%; max-width: 1100px !important; margin: 0 auto !important }
.note { opacity: .75; overflow-wrap: anywhere }
.bad { color: #b00020 !important; font-weight: 600; overflow-wrap: anywhere } .dark .bad { color: #ff8a98 !important }
.input { width: min(100%, 256px); border-radius: 6px; display: block }
#orbit .progress-text { position: static; transform: none; align-self: center }
"""


def web_app(studio: Studio, hosts: list[str], max_upload_bytes: int) -> "fastapi.FastAPI":
    """Return the server's application. It answers requests to one of `hosts` only."""
    import fastapi
    import gradio as gr
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    async def refuse_address(url: str, cache_dir: str):
        raise gr.Error("an upload is a file, not an address", print_exception=False)

    gr.processing_utils.async_ssrf_protected_download = refuse_address  # it would be fetched
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Policy)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return gr.mount_gradio_app(
        app,
        build_page(studio),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,  # what nobody foresaw is told on the terminal, not to whoever uses the page
        max_file_size=max_upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=_theme(),
        head=f"<style>{STYLE}{PAGE_STYLE}</style><script>{SCRIPT}</script>",
    )


def _theme() -> "gradio.Theme":
    """Return Gradio's theme with the machine's own fonts, and small print that is dark enough to read."""
    import gradio as gr

    theme = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return theme.set(block_info_text_color="*neutral_500", block_info_text_color_dark="*neutral_400")


class Policy:
    """Adds the content security policy to every answer."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def build_page(studio: Studio) -> "gradio.Blocks":
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(_heading(studio))
        with gr.Row():
            with gr.Column(min_width=280):
                image = gr.Image(
                    label="image of an object", sources=["upload", "clipboard"], buttons=[], height=280, elem_id="image"
                )
                cut_out, choices = _choices(studio)
            with gr.Column(scale=2, min_width=280):
                with gr.Row():
                    go = gr.Button("sample", variant="primary", elem_id="go")
                    stop = gr.Button("stop", elem_id="stop")
                said = gr.HTML(_said(HINT), elem_id="said", js_on_load=None)
                orbit = gr.HTML(elem_id="orbit", js_on_load=None, min_height=96)
                download = gr.DownloadButton("download views and cameras (zip)", interactive=False, elem_id="download")
        _connect(studio, image, cut_out, choices, go, stop, [said, orbit, download], page)
    page.has_launched = True  # without it, where it is mounted, Gradio lets a browser name any file as its upload
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=1, api_open=False)


def _heading(studio: Studio) -> str:
    saved = studio.saved
    model = f"{saved.folder}, step {saved.recipe['step']}, {saved.weights} weights"
    views = f"{saved.data.num_frames} views of {studio.settings.size_px} pixels"
    return f"<h1>{TITLE}</h1><p class=note>{escape(model)}; {views}.</p>"


def _choices(studio: Studio) -> tuple["gradio.Checkbox", dict[str, "gradio.Component"]]:
    """Draw what may be chosen, and return the switch for the background, and a component for each key of `sample`."""
    import gradio as gr

    settings = studio.settings
    has_rembg = importlib.util.find_spec("rembg") is not None
    cut_out = gr.Checkbox(
        settings.remove_background,
        label="cut out the background",
        info="with rembg" if has_rembg else "needs pip install 'rembg[cpu]'; a plain background goes without it",
        interactive=has_rembg,
    )
    choices = {
        "elevation_deg": gr.Slider(
            -90, 90, settings.elevation_deg, step=0.5, label="elevation (degrees)",
            info="how far above the horizon the camera was", elem_id="elevation",
        ),
        "seeds": gr.Number(settings.seed, label="seed", precision=0, minimum=0, elem_id="seed"),
    }  # fmt: skip
    with gr.Accordion("sampling", open=False):
        steps = settings.num_inference_steps
        choices |= {
            "num_inference_steps": gr.Slider(2, max(steps, MOST_STEPS), steps, step=1, label="steps", elem_id="steps"),
            "guidance": gr.Dropdown(["orbit", "linear", "constant"], value=settings.guidance, label="guidance"),
            "guidance_min": gr.Number(settings.guidance_min, label="lowest guidance", minimum=0, step=0.1),
            "guidance_max": gr.Number(settings.guidance_max, label="highest guidance", minimum=0, step=0.1),
        }
    return cut_out, choices


def _connect(studio: Studio, image, cut_out, choices: dict, go, stop, shown: list, page: "gradio.Blocks") -> None:
    """Say what is called when. `shown` is where messages, pictures and the zip go."""
    import gradio as gr

    nothing = gr.update(interactive=False, value=None)

    def look(upload: dict | None, with_rembg: bool):
        if upload is None:
            return None, _said(HINT), "", nothing
        try:
            view, whole = studio.look(_uploaded(upload, studio.folder), with_rembg)
        except UserError as error:
            return None, _said(error, bad=True), "", nothing
        note = "It has no plain background, and is taken whole." if whole else "This is what the model sees."
        return gr.skip(), _said(note), _picture(to_uint8(view)[0]), nothing

    def sample(values: dict, request: gr.Request, progress=gr.Progress()):  # noqa: B008
        if values[image] is None:
            return _said("Drop an image first.", bad=True), "", nothing
        wanted = {key: values[part] for key, part in choices.items()}
        wanted["seeds"] = [wanted["seeds"]]

        def on_step(done: int) -> None:
            total = wanted["num_inference_steps"]
            progress(done / total, desc=f"step {done} of {total}")

        try:
            path = _uploaded(values[image], studio.folder)
            orbit, archive = studio.sample(path, values[cut_out], wanted, request.session_hash, on_step)
        except UserError as error:
            return _said(error, bad=True), "", nothing
        except SamplingStopped:
            return _said("Stopped."), "", nothing
        about = f"Seed {wanted['seeds'][0]}, elevation {wanted['elevation_deg']:g}°. Drag the sample to turn it."
        return _said(about), orbit, gr.update(interactive=True, value=str(archive))

    def end(request: gr.Request):
        studio.stop(request.session_hash)

    # Gradio would open the image in its own way. So the functions take what the browser sent, as it came.
    raw = {"api_visibility": "private", "preprocess": False}
    gr.on(
        [image.upload, image.clear, cut_out.change], look, [image, cut_out], [image, *shown], show_progress="minimal",
        concurrency_limit=2, **raw,
    )  # fmt: skip
    # They wait in the studio, where stop finds them, and which says when too many do; not in Gradio's queue.
    inputs = {image, cut_out, *choices.values()}
    go.click(sample, inputs, shown, show_progress_on=[shown[1]], concurrency_limit=None, **raw)
    stop.click(end, None, None, queue=False, **raw)
    page.unload(end)


def _uploaded(upload: object, folder: Path) -> Path:
    """Return the file of an upload. Raises UserError for whatever else a browser may send: no other file is opened."""
    path = upload.get("path") if isinstance(upload, dict) else None
    if not isinstance(path, str) or "\0" in path or not Path(path).resolve().is_relative_to(folder.resolve()):
        raise UserError("the image is no upload")
    return Path(path)


def _said(message: object, bad: bool = False) -> str:
    role, kind = ("alert", "bad") if bad else ("status", "note")
    return f'<p role="{role}" class="{kind}">{escape(one_line(str(message)))}</p>'


def _picture(view) -> str:
    """Return a view (H W 3 uint8) as HTML."""
    data = io.BytesIO()
    Image.fromarray(view).save(data, "PNG")
    source = base64.b64encode(data.getvalue()).decode()
    return f'<img class="input" alt="the image as the model sees it" src="data:image/png;base64,{source}">'
