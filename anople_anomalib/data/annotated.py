# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Data sets in the formats of COCO, LabelMe and Datumaro: images with marks, each with a name and perhaps an area.

An image without marks, or whose only ones have a name of good parts, is good.
"""

import base64
import io
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anople_anomalib.utils.files import files_below, is_hidden, is_picture, one_line

from .importing import GOOD, Entry, Part, folder_of, is_background, local, require_size
from .listing import is_good

_Draw = Callable[[Any, int, int], NDArray[np.bool_]]  # of an area, a height and a width, shape (H, W)
_LINE, _POINT = 10, 5  # width and radius in pixels, as LabelMe draws them


class _Mark(NamedTuple):
    """A mark that somebody has made."""

    name: str
    area: Any = None  # in the form of its format; None where it has none
    of_image: bool = False  # whether it is a name of the whole image


class _Marked(NamedTuple):
    """An image with its marks."""

    place: str  # where it stands, for messages
    address: str
    folders: Sequence[Path]  # that its address may be below
    size: Sequence[Any] | None  # height and width, as its format says
    marks: Sequence[_Mark]

    def entry(self, draw: _Draw) -> Entry:
        """Return it as an image of a data set, whose areas are to be drawn."""
        return Entry(self.place, any(mark.area for mark in self.marks), partial(self._part, draw))

    def _part(self, draw: _Draw) -> Part:
        image = local(self.address, *self.folders)
        if self.size is not None:
            require_size(image, self.size, "It is said to have")
        names = {mark.name for mark in self.marks if not is_background(mark.name)}
        if all(map(is_good, names)):
            return Part(image, GOOD)
        drawn = [mark for mark in self.marks if not (mark.of_image or is_background(mark.name))]
        kind = folder_of(names)
        if self.size is None or not drawn or not all(mark.area for mark in drawn):
            return Part(image, kind)
        mask = np.zeros(self.size, bool)
        for mark in drawn:
            area = draw(mark.area, *self.size)
            if not area.any():  # beside other areas the mask would be whole but for it
                msg = f"It has a {mark.name!r} that covers no pixel: draw it larger, or delete it ({mark.area!s:.80})."
                raise ValueError(msg)
            mask |= area
        return Part(image, kind, mask)


def coco_entries(source: Path, files: Path | None) -> list[Entry]:
    """Read a file of COCO: areas are polygons, or runs of pixels, as numbers or compressed."""
    marks = defaultdict[Any, list[_Mark]](list)
    with _read_as(source, "COCO, with lists of images, annotations and categories") as content:
        names = {each["id"]: str(each["name"]) for each in content["categories"]}
        for each in content["annotations"]:
            area = each.get("segmentation") or None
            areas = [[polygon] for polygon in area] if isinstance(area, list) else [area]
            marks[each["image_id"]] += [_Mark(names[each["category_id"]], part) for part in areas]
        images = {each["id"]: each for each in content["images"]}
        folders = [files or source.parent]
        found = [
            _Marked(f"{source.name}, {name}", name, folders, (each["height"], each["width"]), marks.pop(number, []))
            for number, each in images.items()
            if (name := str(each["file_name"]))
        ]
    if marks:
        msg = f"'{source}' has annotations of images that it does not list, such as the one of id {next(iter(marks))}."
        raise ValueError(msg)
    return [each.entry(_runs_or_polygons) for each in found]


def datumaro_entries(source: Path, files: Path | None) -> list[Entry]:
    """Read a file of Datumaro: areas are polygons, or compressed runs of pixels."""
    folders = [files or source.absolute().parents[1] / "images" / source.stem]
    with _read_as(source, "Datumaro, with categories and items") as content:
        names = [str(each["name"]) for each in content["categories"]["label"]["labels"]]

        def mark(found: dict[str, Any]) -> _Mark:
            """Return the mark of an annotation."""
            area = found["rle"] if found["type"] == "mask" else None
            area = [found["points"]] if found["type"] == "polygon" else area
            return _Mark(names[found["label_id"]], area, found["type"] == "label")

        found = [
            _Marked(
                f"{source.name}, {name}", name, folders, each["image"].get("size"), [*map(mark, each["annotations"])]
            )
            for each in content["items"]
            if (name := str(each["image"]["path"]))
        ]
    return [each.entry(_runs_or_polygons) for each in found]


def labelme_entries(source: Path, files: Path | None) -> list[Entry]:
    """Read a folder of LabelMe's files; images in folders that are named as those of good parts need none."""
    if not source.is_dir():
        msg = f"'{source}' is no folder: give the one of LabelMe's files."
        raise ValueError(msg)
    there = [file for file in files_below(source) if not is_hidden(file, source)]
    entries, named = list[Entry](), set[Path]()
    for file in there:
        if file.suffix.lower() == ".json":
            try:
                found = _labelme(file, [file.parent, files or source])
            except ValueError as error:
                entries.append(Entry(str(file), False, partial(_refuse, str(error))))
                continue
            with suppress(FileNotFoundError):
                named.add(local(found.address, *found.folders).resolve())
            entries.append(found.entry(_shape))
    alone = [image for image in there if is_picture(image) and image.resolve() not in named]
    untold = partial(_refuse, "It has no file of LabelMe, and does not lie in a folder 'good'.")
    return entries + [
        Entry(str(image), False, partial(Part, image, GOOD) if is_good(image.parent.name) else untold)
        for image in alone
    ]


def _labelme(file: Path, folders: Sequence[Path]) -> _Marked:
    """Read a file of LabelMe; where nothing is drawn, its flags that are set are names of the image."""
    with _read_as(file, "LabelMe, with shapes and an imagePath") as content:
        marks = [_Mark(str(each["label"]), each) for each in content["shapes"]]
        marks = marks or [_Mark(name, of_image=True) for name, is_set in (content.get("flags") or {}).items() if is_set]
        size = content["imageHeight"], content["imageWidth"]
        return _Marked(str(file), str(content["imagePath"]), folders, size, marks)


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)


@contextmanager
def _read_as(file: Path, description: str) -> Iterator[Any]:
    """Read a file of JSON; whatever it has not within the block, the error names the file."""
    try:
        yield json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        msg = f"'{file}' is no file of {description} ({type(error).__name__}: {one_line(error)})."
        raise ValueError(msg) from error


def _runs_or_polygons(area: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Draw an area of COCO or Datumaro.

    Raises:
        ImportError: If a polygon is to be drawn, and pycocotools are not installed.
        ValueError: If it is wrong, which pycocotools do not check.
    """
    area = _polygons(area, height, width) if isinstance(area, list) else area
    counts = area["counts"]
    counts = np.asarray(_decompressed(counts) if isinstance(counts, str) else counts)
    if list(area["size"]) != [height, width] or counts.min() < 0 or counts.sum() != height * width:
        msg = f"A mask of runs of pixels is not one of {height} rows of {width}."
        raise ValueError(msg)
    return np.repeat(np.arange(counts.size) % 2 == 1, counts).reshape(width, height).T


def _decompressed(text: str) -> list[int]:
    """Return the lengths of runs of a string of COCO: 5 bits a character, the first ones first, then differences."""
    counts, value, shift = list[int](), 0, 0
    for bits in (character - 48 for character in text.encode()):
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def _polygons(polygons: list[Any], height: int, width: int) -> dict[str, Any]:
    """Return the runs of the pixels within polygons, each a list x, y, x, y, ..., as COCO's own tools draw them."""
    try:
        from pycocotools import mask
    except ImportError as error:
        msg = "Polygons need a library: pip install 'anople-anomalib[coco]'."
        raise ImportError(msg) from error
    limit = 4 * max(height, width)
    for polygon in polygons:
        values = np.asarray(polygon, float)
        if values.ndim != 1 or values.size < 6 or values.size % 2 or not (np.abs(values) <= limit).all():
            msg = f"A polygon has at least three points x, y around the image, not {polygon!s:.60}"
            raise ValueError(msg)
    runs = mask.merge(mask.frPyObjects(polygons, height, width))
    return {**runs, "counts": runs["counts"].decode()}


def _shape(shape: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """Draw a shape as LabelMe does."""
    kind, points = shape.get("shape_type") or "polygon", [(float(x), float(y)) for x, y in shape["points"]]
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    (x, y), (right, bottom), number = points[0], points[-1], len(points)
    if kind == "mask" and number == 2:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
            canvas.paste(Image.fromarray(np.asarray(image) > 0), (int(x), int(y)))
    elif kind == "circle" and number == 2:
        draw.circle((x, y), math.dist(*points), fill=1, outline=1)
    elif kind == "point" and number == 1:
        draw.circle((x, y), _POINT, fill=1, outline=1)
    elif kind == "rectangle" and number == 2:
        draw.rectangle((min(x, right), min(y, bottom), max(x, right), max(y, bottom)), fill=1, outline=1)
    elif kind in {"line", "linestrip"} and number > 1:
        draw.line(points, fill=1, width=_LINE)
    elif kind in {"polygon", "oriented_rectangle"} and number > 2:
        draw.polygon(points, fill=1, outline=1)
    else:
        msg = f"It has a shape of the kind {kind!r} with {number} points, which is not known here."
        raise ValueError(msg)
    return np.asarray(canvas)
