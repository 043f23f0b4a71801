# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Canvases: large clean images from which training windows are cut, and what is on them.

A canvas is one RGBA image; alpha marks the object (everything, for a texture). Canvas ``i`` of a seed is always the
same image, on any number of processes.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .fields import grain, noise
from .more_textures import TEXTURES
from .objects import OBJECTS
from .photographs import PHOTOGRAPHS, crop_of

Rng = np.random.Generator

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.75, 0.18, 0.15), "green": (0.25, 0.55, 0.22), "blue": (0.2, 0.35, 0.75), "yellow": (0.88, 0.78, 0.25),
    "orange": (0.9, 0.5, 0.15), "brown": (0.48, 0.31, 0.18), "purple": (0.5, 0.25, 0.6), "pink": (0.9, 0.6, 0.68),
    "beige": (0.82, 0.73, 0.58), "white": (0.93, 0.93, 0.91), "gray": (0.55, 0.55, 0.55), "black": (0.16, 0.16, 0.17),
}  # fmt: skip
"""Color words and their RGB in [0, 1]."""

NATURAL: dict[str, str] = {
    "brick": "red", "grass": "green", "gravel": "gray", "wood": "brown", "metal": "gray", "stone": "gray",
    "leather": "brown", "denim": "blue", "concrete": "gray", "sand": "beige", "plaster": "white", "paper": "white",
    "rust": "orange", "fur": "brown", "water": "blue", "bark": "brown", "soil": "brown", "cork": "beige",
    "asphalt": "black", "clouds": "blue", "marble": "white", "bottle": "brown", "nut": "gray", "screw": "gray",
    "coin": "yellow", "gear": "gray", "board": "green", "ring": "gray", "ceramic": "gray",
}  # fmt: skip
"""The color that a thing has in half of its images."""

NAMES: tuple[str, ...] = (*TEXTURES, *OBJECTS, *PHOTOGRAPHS, "object")
"""Every word that can name what is on a canvas; ``"object"`` is used for a user's own images."""


@dataclass(frozen=True)
class Canvas:
    """One clean image.

    Args:
        image: uint8, shape (4, size, size): RGB and the silhouette of the named thing (255 inside).
        name: Index into ``NAMES``.
        color: Index into ``COLORS`` or -1 when the color has no word.
        ground: Index into ``NAMES`` of what surrounds an object, -1 for textures and photographs.
    """

    image: NDArray[np.uint8]
    name: int
    color: int
    ground: int = -1


def colorize(rng: Rng, field: NDArray[np.float32], name: str) -> tuple[NDArray[np.float32], int]:
    """Give a field a color.

    Returns:
        RGB in [0, 1] of shape (size, size, 3) and the color's index in ``COLORS``.
    """
    words = list(COLORS)
    word = NATURAL[name] if name in NATURAL and rng.random() < 0.5 else words[rng.integers(len(words))]
    light = np.clip(np.array(COLORS[word]) * rng.uniform(0.85, 1.15) + rng.normal(0, 0.04, 3), 0.05, 1)
    shade = light * rng.uniform(0.15, 0.75)
    if rng.random() < 0.15:  # a second hue in the gaps
        shade = 0.5 * shade + 0.5 * np.array(list(COLORS.values())[rng.integers(len(words))])
    rgb = shade + (light - shade) * field[..., None]
    tint = noise(rng, field.shape[0], rng.uniform(3, 40))[..., None] - 0.5
    return np.clip(rgb + rng.uniform(0, 0.07) * tint * rng.normal(0, 1, 3), 0, 1).astype(np.float32), words.index(word)


def _texture(rng: Rng, size: int) -> Canvas:
    name = list(TEXTURES)[rng.integers(len(TEXTURES))]
    rgb, color = colorize(rng, TEXTURES[name](rng, size), name)
    alpha = np.ones((size, size, 1), np.float32)
    return Canvas(_pack(rgb, alpha), NAMES.index(name), color)


def _object(rng: Rng, size: int) -> Canvas:
    name = list(OBJECTS)[rng.integers(len(OBJECTS))]
    silhouette, relief = OBJECTS[name](rng, size)
    rough = relief + rng.uniform(0, 0.4) * (grain(rng, size, rng.uniform(0.5, 2)) - 0.5)
    front, color = colorize(rng, np.clip(rough, 0, 1), name)
    ground = str(rng.choice(["paper", "plastic", "fabric", "concrete", "wood", "metal"]))
    back, _ = colorize(rng, TEXTURES[ground](rng, size), ground)
    alpha = silhouette[..., None]
    return Canvas(_pack(front * alpha + back * (1 - alpha), alpha), NAMES.index(name), color, NAMES.index(ground))


def _photograph(rng: Rng, size: int) -> Canvas:
    name = list(PHOTOGRAPHS)[rng.integers(len(PHOTOGRAPHS))]
    return Canvas(_pack(crop_of(rng, PHOTOGRAPHS[name], size), np.ones((size, size, 1))), NAMES.index(name), -1)


def _own_image(rng: Rng, size: int, images: Sequence[Path]) -> Canvas:
    crop = crop_of(rng, images[rng.integers(len(images))], size)
    return Canvas(_pack(crop, np.ones((size, size, 1))), NAMES.index("object"), -1)


def _pack(rgb: NDArray[np.floating], alpha: NDArray[np.floating]) -> NDArray[np.uint8]:
    rgba = np.concatenate([rgb, alpha], axis=2) * 255
    return np.ascontiguousarray(rgba.round().astype(np.uint8).transpose(2, 0, 1))  # (4, size, size)


def render(index: int, seed: int, size: int = 320, images: Sequence[Path] = ()) -> Canvas:
    """Render canvas ``index``: 76 % textures, 18 % objects, 6 % photographs; 20 % ``images`` where given."""
    rng = np.random.default_rng((seed, index))
    if images and rng.random() < 0.2:
        return _own_image(rng, size, images)
    kind = rng.random()
    return _texture(rng, size) if kind < 0.76 else _object(rng, size) if kind < 0.94 else _photograph(rng, size)


def render_many(
    count: int, seed: int, size: int = 320, images: Sequence[Path] = ()
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Render canvases in this process.

    Returns:
        Images, uint8, shape (count, 4, size, size), and labels, int64, shape (count, 3): name, color, ground.
    """
    canvases = [render(i, seed, size, images) for i in range(count)]
    labels = [(canvas.name, canvas.color, canvas.ground) for canvas in canvases]
    return np.stack([canvas.image for canvas in canvases]), np.array(labels, np.int64)


def render_once(
    folder: Path, count: int, seed: int, size: int = 320, images: Sequence[Path] = ()
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Render canvases on all cores into files, unless a finished rendering is there.

    The files are ``images.npy`` and ``labels.npy``, written under temporary names first.

    Returns:
        As ``render_many``; the images are a read-only memory map.
    """
    pixels, labels = folder / "images.npy", folder / "labels.npy"
    if not (pixels.exists() and labels.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        partial_file = folder / "images.partial.npy"
        store = np.lib.format.open_memmap(partial_file, "w+", np.uint8, (count, 4, size, size))
        rows = np.zeros((count, 3), np.int64)
        spawn = get_context("spawn")  # a forked process would inherit the locks of torch's and OpenCV's threads
        with ProcessPoolExecutor(os.cpu_count(), spawn, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            job = partial(render, seed=seed, size=size, images=images)
            for i, canvas in enumerate(tqdm(pool.map(job, range(count), chunksize=16), "draw", count, unit="canvas")):
                store[i] = canvas.image
                rows[i] = canvas.name, canvas.color, canvas.ground
        store.flush()
        np.save(folder / "labels.partial.npy", rows)
        os.replace(partial_file, pixels)
        os.replace(folder / "labels.partial.npy", labels)
    return np.load(pixels, mmap_mode="r"), np.load(labels)
