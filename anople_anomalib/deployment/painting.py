# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The painter of verdicts: image, heat map and outline, with score and verdict below, by numpy and Pillow alone.

The runtime without torch has this file: its pictures are those of the checkpoint.
"""

import logging
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from anople_anomalib.utils.palette import ORANGE, SKY_BLUE

logger = logging.getLogger(__name__)

HEAT = "viridis"
"""matplotlib's name of the color map of every heat map: its lightness grows evenly, in gray print, too."""
_VIRIDIS = bytes.fromhex(
    "44015446085c471063481769481d6f482475472a7a46307e453781433d844142873f48893d4e8a3a538b38598c355e8d33638d31688e"
    "2e6d8e2c718e2a768e297b8e27808e25848e23898e218e8d20928c1f978b1e9c891fa18821a58524aa8328ae802eb37c35b7793dbc74"
    "46c06f50c46a5ac86465cb5e70cf577cd25089d54895d840a2da37b0dd2fbddf26cae11fd8e219e5e419f1e51dfde725"
)  # every fifth of its 256 colors
_HEAT_SHARE = 0.7
_SIDE = 256  # pixels, width and height of one of the pictures side by side
_OUTLINE = 2  # pixels
_CAPTION_HEIGHT, _FONT_SIZE = 28, 18
_COMPRESSION = 1  # of PNG: a third larger than by Pillow's 6, in a third of the time
_GOOD, _BAD, _UNKNOWN = "#1b7837", "#b2182b", "#444444"


def with_heat(photo: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Put a heat map, shape ``(h, w)``, values in [0, 1], over a photograph, shape ``(H, W, 3)``."""
    colors = heat_colors(resized_heat(np.nan_to_num(heat), (photo.shape[1], photo.shape[0])))
    return (_HEAT_SHARE * colors + (1 - _HEAT_SHARE) * photo).astype(np.uint8)


def resized_heat(heat: NDArray[np.floating[Any]], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a heat map to a width and a height."""
    return np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))


def heat_colors(heat: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return the colors of a heat map of shape ``(h, w)``, values in [0, 1]: shape ``(h, w, 3)``, of 255."""
    return _colors()[(heat * 256).clip(0, 255).astype(np.uint8)]


@cache
def _colors() -> NDArray[np.float32]:
    """Return the 256 colors, of 255: shape ``(256, 3)``."""
    anchors = np.frombuffer(_VIRIDIS, np.uint8).reshape(-1, 3)
    places = np.linspace(0, 255, len(anchors))
    table = np.stack([np.interp(np.arange(256), places, channel) for channel in anchors.T], axis=1)
    return table.astype(np.float32)


def with_outline(photo: NDArray[np.uint8], mask: NDArray[np.bool_], color: str) -> NDArray[np.uint8]:
    """Outline a mask, shape ``(h, w)``, true inside, on a photograph, shape ``(H, W, 3)``."""
    resized = Image.fromarray(mask).resize((photo.shape[1], photo.shape[0]), Image.Resampling.NEAREST)
    inside = core = np.asarray(resized)
    for _ in range(_OUTLINE):
        edged = np.pad(core, 1)
        core = core & edged[:-2, 1:-1] & edged[2:, 1:-1] & edged[1:-1, :-2] & edged[1:-1, 2:]
    drawn = photo.copy()
    drawn[inside & ~core] = ImageColor.getrgb(color)
    return drawn


def paint(
    pixels: NDArray[np.uint8],
    score: float | None,
    anomalous: bool | None,
    heat: NDArray[np.float32] | None,
    mask: NDArray[np.bool_] | None,
    truth: NDArray[np.bool_] | None = None,
) -> Image.Image:
    """Draw an image, its ground truth if there is one, the heat map, and the pixels above the threshold.

    The heat map is on the scale from 0 to 1, with the threshold at 0.5: a good part does not glow.

    Args:
        pixels: The image, shape ``(H, W, 3)``.
        score: On that scale; ``None`` if there is none.
        anomalous: Whether it is above the threshold; ``None`` if that is not known.
        heat: On that scale, shape ``(h, w)``.
        mask: What is above the threshold, shape ``(h, w)``.
        truth: What is known to be anomalous, shape ``(h, w)``.
    """
    photo = np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    drawn = {"image": photo}
    if truth is not None:
        drawn["ground truth"] = with_outline(photo, truth, SKY_BLUE)
    if heat is not None:
        drawn["heat map"] = with_heat(photo, heat)
    if mask is not None:
        drawn["above the threshold"] = with_outline(photo, mask, ORANGE)
    text, color = "" if score is None else f"score {score:.3f}", _UNKNOWN
    if anomalous is not None and (score is None or math.isfinite(score)):
        text, color = (f"NOT OK   {text}", _BAD) if anomalous else (f"OK   {text}", _GOOD)
    return _with_caption(np.concatenate(list(drawn.values()), axis=1), list(drawn), text, color)


def save(picture: Image.Image, file: Path) -> None:
    """Write a picture as PNG; a warning says where it cannot be written: the verdict itself stands in the table."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file, format="PNG", compress_level=_COMPRESSION)
    except OSError as error:
        logger.warning("The picture '%s' cannot be written: %s", file, error)


def picture_name(name: str) -> str:
    """Return the name of the picture of an image of this name."""
    return name if name.lower().endswith(".png") else f"{name}.png"


def _with_caption(drawn: NDArray[np.uint8], titles: list[str], text: str, color: str) -> Image.Image:
    """Add titles above the pictures, and a line of text below them."""
    canvas = _titled(drawn.shape[1], drawn.shape[0] + 2 * _CAPTION_HEIGHT, tuple(titles)).copy()
    canvas.paste(Image.fromarray(drawn), (0, _CAPTION_HEIGHT))
    place = (6, canvas.height - _CAPTION_HEIGHT / 2)
    ImageDraw.Draw(canvas).text(place, text, color, ImageFont.load_default(_FONT_SIZE), anchor="lm")
    return canvas


@cache
def _titled(width: int, height: int, titles: tuple[str, ...]) -> Image.Image:
    """Return a white canvas with the titles of pictures side by side."""
    canvas = Image.new("RGB", (width, height), "white")
    draw, font, each = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT_SIZE), width / len(titles)
    for number, title in enumerate(titles):
        draw.text(((number + 0.5) * each, _CAPTION_HEIGHT / 2), title, "black", font, anchor="mm")
    return canvas
