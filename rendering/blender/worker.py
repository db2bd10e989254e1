"""Blender's side of `blender`: one job in, RGBA views out. Runs inside Blender's own Python, where only numpy and bpy are sure.

`python worker.py JOB.json`, or `blender --python worker.py -- JOB.json`; Blender 4.2 or newer. An exit code of 2
is not the asset's fault (no such GPU, too old a Blender): the last line of stderr says what to do. OMP_NUM_THREADS limits the
threads. Glass shows the environment behind it, and is opaque.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from rendering.blender.asset import Refused, load, normalise, see_through
from rendering.job import MACHINE_EXIT_CODE, Job, read_job

OLDEST = (4, 2)
GPU_KINDS = ("OPTIX", "CUDA", "HIP", "METAL", "ONEAPI")
MAX_BOUNCES = 8
SEE_THROUGH_SAMPLES = 4  # times as many, for alpha is not denoised: 16 leave grains in a pane of 0.4
TRANSPARENT_LAYERS = 64  # foliage of alpha-masked cards: with Blender's 8 the ninth card is black


class MachineError(Exception):
    """Not the asset's fault: every other job would fail alike."""


def main(job_path: str) -> None:
    if bpy.app.version < OLDEST:
        raise MachineError(f"Blender {OLDEST[0]}.{OLDEST[1]} or newer is needed, this is {bpy.app.version_string}")
    job = read_job(Path(job_path))
    refused = None
    try:
        _render(job)
    except Refused as reason:
        refused = " ".join(str(reason).split())
    Path(job.views, "result.json").write_text(json.dumps({"refused": refused}))


def _render(job: Job) -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    _set_engine(scene, job)
    _set_output(scene.render, job.size_px)
    load(Path(job.asset))
    normalise(scene)
    if see_through():
        scene.cycles.samples *= SEE_THROUGH_SAMPLES
    _set_environment(scene, np.load(job.environment))
    camera = _add_camera(scene, job.fov_deg)
    for index, matrix in enumerate(job.camera_to_world):
        camera.matrix_world = Matrix(matrix)  # Blender's cameras have OpenGL's axes too
        scene.render.filepath = str(Path(job.views, f"{index:03d}.png"))
        bpy.ops.render.render(write_still=True)
        _blacken_transparent(scene.render.filepath)


def _set_engine(scene, job: Job) -> None:
    scene.render.engine = "CYCLES"
    scene.render.use_persistent_data = True  # an orbit builds its BVH once
    if "OMP_NUM_THREADS" in os.environ:
        scene.render.threads_mode, scene.render.threads = "FIXED", int(os.environ["OMP_NUM_THREADS"])
    cycles = scene.cycles
    cycles.samples, cycles.use_adaptive_sampling, cycles.seed = job.num_samples, False, 0
    # The denoiser's quality costs more time than the samples do.
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.denoising_quality, cycles.denoising_prefilter = "FAST", "NONE"
    cycles.max_bounces, cycles.transparent_max_bounces = MAX_BOUNCES, TRANSPARENT_LAYERS
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
    """PNG of straight alpha, 8 bit sRGB and nothing in between: no tone mapping, no dither."""
    render.resolution_x = render.resolution_y = size_px
    render.film_transparent, render.dither_intensity = True, 0
    render.use_compositing = render.use_sequencer = False
    image = render.image_settings
    image.file_format, image.color_mode, image.color_depth = "PNG", "RGBA", "8"
    view = bpy.context.scene.view_settings
    view.view_transform, view.look = "Standard", "None"


def _set_environment(scene, radiance: np.ndarray) -> None:
    """H 2H 3 linear sRGB, the first row straight up: Cycles' own equirectangular layout, whose rows start below."""
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
    lens.sensor_fit, lens.angle = "HORIZONTAL", np.radians(fov_deg)
    lens.clip_start, lens.clip_end = 0.01, 100
    scene.camera = bpy.data.objects.new("camera", lens)
    scene.collection.objects.link(scene.camera)
    return scene.camera


def _blacken_transparent(path: str) -> None:
    """The denoiser bleeds colour to where nothing is."""
    image = bpy.data.images.load(path)
    image.colorspace_settings.is_data, image.alpha_mode = True, "CHANNEL_PACKED"
    pixels = np.empty(len(image.pixels), np.float32)
    image.pixels.foreach_get(pixels)
    pixels.reshape(-1, 4)[pixels[3::4] == 0] = 0
    image.pixels.foreach_set(pixels)
    image.save()
    bpy.data.images.remove(image)


def _leave(kind: type[BaseException], error: BaseException, trace) -> None:
    """At once, so that the reason is the last line: a Blender that is left to quit says so, and exits with a code of its own."""
    if kind is MachineError:
        sys.stderr.write(f"error: {error}\n")
    else:
        traceback.print_exception(kind, error, trace)
    sys.stderr.flush()
    os._exit(MACHINE_EXIT_CODE if kind is MachineError else 1)


if __name__ == "__main__":
    sys.excepthook = _leave
    main(sys.argv[-1])
