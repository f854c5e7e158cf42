"""A small instance of every name that ``--model`` takes: what the command line would say."""

import importlib
from collections.abc import Callable
from pathlib import Path

SIDE = 64


def _tiny(_folder: Path) -> list[str]:
    return ["cat3d-tiny:random"]


def _cat3d(folder: Path) -> list[str]:
    saved = importlib.import_module("small_cat3d").save_small(folder)
    return [f"cat3d:{saved / 'checkpoint-100'}", "--base", str(saved), "--model-size", str(SIDE)]


def _based(name: str) -> Callable[[Path], list[str]]:
    """Return how a model whose folder is its own base is named."""

    def small(folder: Path) -> list[str]:
        saved = importlib.import_module(f"small_{name}").save_small(folder / "release")
        return [f"{name}:{saved}", "--base", str(saved), "--model-size", str(SIDE)]

    return small


def _alone(name: str, module: str) -> Callable[[Path], list[str]]:
    """Return how a model of one folder is named."""

    def small(folder: Path) -> list[str]:
        saved = importlib.import_module(module).save_small(folder / "release")
        return [f"{name}:{saved}", "--model-size", str(SIDE)]

    return small


def _video(name: str, kind: str) -> Callable[[Path], list[str]]:
    """Return how a pipeline of diffusers is named."""

    def small(folder: Path) -> list[str]:
        saved = importlib.import_module("small_videos").save_small(kind, folder / "release")
        return [f"{name}:{saved}", "--model-size", str(SIDE)]

    return small


def _with_cameras(name: str) -> Callable[[Path], list[str]]:
    """Return how weights of a video model with cameras are named, beside the pipeline that they lack."""

    def small(folder: Path) -> list[str]:
        saved = importlib.import_module("small_camera_videos").save_small(name, folder / "release")
        return [f"{name}:{saved}", "--base", str(saved / "base"), "--model-size", str(SIDE)]

    return small


def _feed_forward(name: str) -> Callable[[Path], list[str]]:
    def small(folder: Path) -> list[str]:
        saved = importlib.import_module("small_feed_forward").save_small(name, folder / "release")
        return [f"{name}:{saved}", "--model-size", "56"]

    return small


def _module(_folder: Path) -> list[str]:
    return ["module:probe.models.TEMPLATE.make"]


EVERY: dict[str, Callable[[Path], list[str]]] = {
    "cat3d-tiny": _tiny,
    "cat3d": _cat3d,
    "sd21": _alone("sd21", "small_sd21"),
    "sd21-extended": _alone("sd21-extended", "small_sd21"),
    "mvgenmaster": _based("mvgenmaster"),
    "hunyuan-dit": _alone("hunyuan-dit", "small_hunyuan_dit"),
    "seva": _based("seva"),
    "mvdream": _alone("mvdream", "small_mvdream"),
    "wan": _video("wan", "wan"),
    "wan-camera": _with_cameras("wan-camera"),
    "recammaster": _with_cameras("recammaster"),
    "cogvideox": _video("cogvideox", "cogvideox"),
    "hunyuan-video": _video("hunyuan-video", "hunyuan-video"),
    "ltx": _video("ltx", "ltx"),
    "diffusers": _video("diffusers", "wan"),
    "vggt": _feed_forward("vggt"),
    "da3": _feed_forward("da3"),
    "module": _module,
}
"""From a name to a function that writes small files into a folder, and returns ``--model``'s value and its flags."""
