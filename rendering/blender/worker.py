"""The Blender renderer's process: one job in, RGBA views out. It runs inside Blender's own Python, which has only numpy and bpy.

`python worker.py JOB.json`, or `blender --python worker.py -- JOB.json`; Blender 4.2 or newer. An exit code of 2
is not the asset's fault (no such GPU, too old a Blender): the last line of stderr says what to do. OMP_NUM_THREADS limits the
threads. Glass shows the environment behind it, and is opaque.
"""

import os
import sys
import traceback
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from rendering.blender.asset import has_transparency, load, normalise_object
from rendering.extent import Placement
from rendering.failure import Failure
from rendering.job import MACHINE_EXIT_CODE, Job, Result, read_job, to_json

OLDEST = (4, 2)
GPU_KINDS = ("OPTIX", "CUDA", "HIP", "METAL", "ONEAPI")
MAX_BOUNCES = 8
TRANSPARENCY_SAMPLES = 4  # times as many samples, since alpha is not denoised: 16 leave grains in a pane of alpha 0.4
TRANSPARENT_LAYERS = 64  # foliage of alpha-masked cards: with Blender's 8 the ninth card is black


class MachineError(Exception):
    """What is not the asset's fault: every other job would fail alike."""


def main(job_path: str) -> None:
    if bpy.app.version < OLDEST:
        raise MachineError(f"Blender {OLDEST[0]}.{OLDEST[1]} or newer is needed, this is {bpy.app.version_string}")
    job = read_job(Path(job_path))
    try:
        result = Result(object=_render(job))
    except Failure as failure:
        result = Result(refused=failure.reason)
    Path(job.views, "result.json").write_text(to_json(result))


def _render(job: Job) -> Placement:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    _set_engine(scene, job)
    _set_output(scene.render, job.size_px)
    load(Path(job.asset), job.up_axis)
    placement = normalise_object(scene)
    if has_transparency():
        scene.cycles.samples *= TRANSPARENCY_SAMPLES
    _set_environment(scene, np.load(job.environment))
    camera = _add_camera(scene, job.fov_deg)
    for index, matrix in enumerate(job.camera_to_world):
        camera.matrix_world = Matrix(matrix)  # Blender's cameras have OpenGL's axes too
        scene.render.filepath = str(Path(job.views, f"{index:03d}.png"))
        bpy.ops.render.render(write_still=True)
        _blacken_transparent(scene.render.filepath)
    return placement


def _set_engine(scene, job: Job) -> None:
    scene.render.engine = "CYCLES"
    scene.render.use_persistent_data = True  # an orbit builds its BVH once
    if "OMP_NUM_THREADS" in os.environ:
        scene.render.threads_mode = "FIXED"
        scene.render.threads = int(os.environ["OMP_NUM_THREADS"])
    cycles = scene.cycles
    cycles.samples = job.num_samples
    cycles.use_adaptive_sampling = False
    cycles.seed = 0
    # The denoiser's quality costs more time than the samples do.
    cycles.use_denoising = True
    cycles.denoiser = "OPENIMAGEDENOISE"
    cycles.denoising_quality = "FAST"
    cycles.denoising_prefilter = "NONE"
    cycles.max_bounces = MAX_BOUNCES
    cycles.transparent_max_bounces = TRANSPARENT_LAYERS
    if job.device == "gpu":
        _use_gpu(cycles)


def _use_gpu(cycles) -> None:
    preferences = bpy.context.preferences.addons["cycles"].preferences
    for kind in GPU_KINDS:
        try:
            preferences.compute_device_type = kind
        except TypeError:  # not a kind of this system's Blender
            continue
        preferences.refresh_devices()
        if any(device.type == kind for device in preferences.devices):
            for device in preferences.devices:
                device.use = device.type == kind
            cycles.device = "GPU"
            return
    raise MachineError(f"device gpu: Blender finds none of {', '.join(GPU_KINDS)} on this machine")


def _set_output(render, size_px: int) -> None:
    """Write PNG of 8 bit sRGB with straight alpha, without tone mapping or dither."""
    render.resolution_x = render.resolution_y = size_px
    render.film_transparent = True
    render.dither_intensity = 0
    render.use_compositing = render.use_sequencer = False
    image = render.image_settings
    image.file_format = "PNG"
    image.color_mode = "RGBA"
    image.color_depth = "8"
    view = bpy.context.scene.view_settings
    view.view_transform = "Standard"
    view.look = "None"


def _set_environment(scene, radiance: np.ndarray) -> None:
    """Light the scene with H 2H 3 of linear sRGB, whose first row is straight up; rows of Blender's images start at the bottom."""
    height, width, _ = radiance.shape
    image = bpy.data.images.new("environment", width, height, float_buffer=True, is_data=True)
    pixels = np.ones((height, width, 4), np.float32)
    pixels[..., :3] = radiance[::-1]
    image.pixels.foreach_set(pixels.ravel())
    scene.world = bpy.data.worlds.new("world")
    scene.world.use_nodes = True
    nodes = scene.world.node_tree.nodes
    texture = nodes.new("ShaderNodeTexEnvironment")
    texture.image = image
    scene.world.node_tree.links.new(texture.outputs["Color"], nodes["Background"].inputs["Color"])


def _add_camera(scene, fov_deg: float):
    lens = bpy.data.cameras.new("camera")
    lens.sensor_fit = "HORIZONTAL"
    lens.angle = np.radians(fov_deg)
    lens.clip_start = 0.01
    lens.clip_end = 100
    scene.camera = bpy.data.objects.new("camera", lens)
    scene.collection.objects.link(scene.camera)
    return scene.camera


def _blacken_transparent(path: str) -> None:
    """Make the pixels of alpha 0 black, since the denoiser bleeds colour to where nothing is."""
    image = bpy.data.images.load(path)
    image.colorspace_settings.is_data = True
    image.alpha_mode = "CHANNEL_PACKED"
    pixels = np.empty(len(image.pixels), np.float32)
    image.pixels.foreach_get(pixels)
    pixels.reshape(-1, 4)[pixels[3::4] == 0] = 0
    image.pixels.foreach_set(pixels)
    image.save()
    bpy.data.images.remove(image)


def _leave(kind: type[BaseException], error: BaseException, trace) -> None:
    """Exit at once, so that the reason is the last line: Blender would add a line, and has an exit code of its own."""
    if kind is MachineError:
        sys.stderr.write(f"error: {error}\n")
    else:
        traceback.print_exception(kind, error, trace)
    sys.stderr.flush()
    os._exit(MACHINE_EXIT_CODE if kind is MachineError else 1)


if __name__ == "__main__":
    sys.excepthook = _leave
    main(sys.argv[-1])
