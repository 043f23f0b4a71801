# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Marks of COCO, LabelMe and Datumaro become folders with masks, and what cannot be taken is told."""

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anople_anomalib.commands.main import main
from anople_anomalib.data.annotated import _decompressed, _runs_or_polygons, _shape
from anople_anomalib.data.parts import Parts

HEIGHT, WIDTH = 20, 30
SQUARE = [1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]
KEYHOLE = [10, 2, 20, 2, 20, 12, 10, 12, 10, 7, 13, 7, 13, 9, 17, 9, 17, 5, 13, 5, 13, 7, 10, 7]  # a square with a hole
RING = np.zeros((HEIGHT, WIDTH), bool)
RING[4:10, 5:15] = True
RING[6:8, 8:10] = False
COMPRESSED = {"counts": "X36>0000LD0<0D0<400000000X9", "size": [HEIGHT, WIDTH]}  # of the ring, by Datumaro 1.13
RUNS = {
    "counts": [104, 6, 14, 6, 14, 6, 14, 2, 2, 2, 14, 2, 2, 2, 14, 6, 14, 6, 14, 6, 14, 6, 14, 6, 310],
    "size": [20, 30],
}
NAMES = ["Normal", "scratch", "dent", "background", "../beside"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images, two of one name; one of them is damaged, one lies on its side."""
    folder = tmp_path / "set" / "images" / "train"
    random = np.random.default_rng(0)
    for name in ("a/1", "b/1", "2", "3", "4", "5", "6", "7", "8"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    (folder / "8.png").write_bytes((folder / "8.png").read_bytes()[:900])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(folder / "turned.jpg", exif=exif)  # seen as WIDTH x HEIGHT
    return folder


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def mask_of(folder: Path, name: str) -> NDArray[np.bool_]:
    return np.asarray(Image.open(folder / "ground_truth" / f"{name}_mask.png").convert("L")) > 0


def taken(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """What an import says that could not take everything."""
    assert main(["import", *map(str, arguments)]) == 3
    return capsys.readouterr().out.splitlines()


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def coco(marks: dict[str, list[tuple[int, Any]]], size: tuple[int, int] = (HEIGHT, WIDTH)) -> dict[str, Any]:
    """A file of COCO, whose categories are NAMES."""
    listed = [{"id": n, "file_name": name, "height": size[0], "width": size[1]} for n, name in enumerate(marks, 40)]
    annotations = [
        {"id": n, "image_id": image["id"], "category_id": kind, "bbox": [1, 1, 4, 4], "segmentation": area}
        for image, found in zip(listed, marks.values(), strict=True)
        for n, (kind, area) in enumerate(found)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES)]
    return {"images": listed, "annotations": annotations, "categories": categories}


def test_a_file_of_coco_becomes_folders(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write(tmp_path / "train.json", coco({"a/1.png": [], "b/1.png": [(0, [])], "2.png": [(1, RUNS)]}))
    marks = {
        "train/3.png": [(1, [SQUARE, [8, 8, 12, 8, 12, 12]]), (2, COMPRESSED), (3, [SQUARE])],
        "4.png": [(2, [KEYHOLE])],
        "5.png": [(1, [])],  # a box alone
        "6.png": [(4, [SQUARE])],
        "7.png": [(1, [[0, 0, 0.1, 0, 0.1, 0.1]])],
        "8.png": [],
        "gone.png": [],
        "turned.jpg": [(1, [SQUARE])],
        "2.png": [],
    }
    test, output = write(tmp_path / "test.json", coco(marks)), tmp_path / "parts"
    said = taken(capsys, "coco", train, "--test", test, "--files", images, "--output", output)
    assert said[0].endswith("6 images were taken, 6 were not.")
    for text, sentence in zip(
        (
            "test.json, 5.png: '5.png' has an anomaly without a mask, and others have one",
            "6.png: It names an anomaly '../beside': that is no name of a folder of defects.",
            "7.png: It has a 'scratch' that covers no pixel: draw it larger, or delete it ([[0, 0, 0.1, 0,",
            "8.png: The image '",
            f"gone.png: There is no copy of 'gone.png' in '{images}'",
            "2.png' is the image of train.json, 2.png already.",
        ),
        said[1:],
        strict=True,
    ):
        assert text in sentence
    assert files_in(output) == [
        "ground_truth/dent/4_mask.png", "ground_truth/scratch/2_mask.png", "ground_truth/scratch/turned_mask.png",
        "ground_truth/several/3_mask.png", "test/dent/4.png", "test/scratch/2.png", "test/scratch/turned.jpg",
        "test/several/3.png", "train/good/1.png", "train/good/1_1.png",
    ]  # fmt: skip
    assert (output / "train/good/1_1.png").read_bytes() == (images / "b/1.png").read_bytes()
    assert (mask_of(output, "scratch/2") == RING).all()
    keyhole = mask_of(output, "dent/4")
    assert keyhole[3, 11]
    assert not keyhole[7, 15], "the hole"
    several = mask_of(output, "several/3")
    assert several[RING].all()
    assert several[2, 2]
    assert several[9, 11]
    assert not several[15:].any()
    parts = Parts(output)
    parts.setup()
    assert (len(parts.train_data.samples), len(parts.test_data.samples)) == (1, 5), "a good one is kept for the test"


def test_files_of_labelme_become_folders(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def labels(name: str, *shapes: dict[str, Any], height: int = HEIGHT, **more: object) -> None:
        content = {"shapes": shapes, "imageHeight": height, "imageWidth": WIDTH, "imageData": None, **more}
        write(
            images / f"{name}.json", {"version": "6.3.1", "flags": {}, "imagePath": Path(name).name + ".png"} | content
        )

    square = {"label": "scratch", "points": [[1, 1], [5, 5]], "shape_type": "rectangle"}
    labels("a/1")
    labels("b/1", square, {"label": "_background_", "points": [[20, 10]], "shape_type": "point"})
    labels("2", square, {"label": "dent", "points": [[10, 10], [12, 10]], "shape_type": "circle"})
    labels("3", flags={"normal": True, "dark": False})
    labels("4", flags={"dark": True})
    labels("5", square, height=21)
    labels("6", {"label": "dent", "points": [[1, 1], [5, 5]], "shape_type": "star"})
    write(images / "other.json", {"shapes": []})
    (images / "OK").mkdir()
    (images / "7.png").rename(images / "OK" / "7.png")
    output = tmp_path / "parts"
    said = taken(capsys, "labelme", images, "--output", output)
    assert said[0].endswith("5 images were taken, 6 were not.")
    for name, text in {
        "4.json": "'4.png' has an anomaly without a mask, and others have one",
        "5.json": "It is said to have 30x21 pixels, and the image 30x20.",
        "6.json": "a shape of the kind 'star' with 2 points",
        "other.json": "is no file of LabelMe, with shapes and an imagePath (KeyError: 'imageHeight')",
        "8.png": "It has no file of LabelMe, and does not lie in a folder 'good'.",
        "turned.jpg": "It has no file of LabelMe",
    }.items():
        (sentence,) = [each for each in said if each.startswith(f"{images / name}: ")]
        assert text in sentence
    assert files_in(output) == [
        "ground_truth/scratch/1_mask.png", "ground_truth/several/2_mask.png", "test/scratch/1.png",
        "test/several/2.png", "train/good/1.png", "train/good/3.png", "train/good/7.png",
    ]  # fmt: skip
    mask = mask_of(output, "scratch/1")
    assert mask.sum() == 25
    assert mask[1:6, 1:6].all()
    assert (output / "test/scratch/1.png").read_bytes() == (images / "b/1.png").read_bytes(), "the one beside its file"


def test_a_file_of_datumaro_becomes_folders(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def item(name: str, *annotations: dict[str, Any]) -> dict[str, Any]:
        return {"id": name, "annotations": annotations, "image": {"path": f"{name}.png", "size": [HEIGHT, WIDTH]}}

    label = {"type": "label", "label_id": 0, "attributes": {}, "group": 0}
    mask = {"type": "mask", "label_id": 1, "rle": COMPRESSED, "z_order": 0}
    polygon = {"type": "polygon", "label_id": 1, "points": SQUARE}
    items = [
        item("a/1", label),
        item("2", {**label, "label_id": 1}, mask, polygon),
        item("3", mask, {"type": "bbox", "label_id": 1, "bbox": [1, 2, 3, 4]}),
        item("4", {**mask, "rle": {"counts": COMPRESSED["counts"][:-1], "size": [HEIGHT, WIDTH]}}),
        item("5", label, polygon),
    ]
    categories = {"label": {"labels": [{"name": name, "parent": ""} for name in NAMES]}}
    source = write(images.parents[1] / "annotations" / "train.json", {"categories": categories, "items": items})
    said = taken(capsys, "datumaro", source, "--output", tmp_path / "parts")
    assert said[0].endswith("2 images were taken, 3 were not.")
    assert "3.png: '3.png' has an anomaly without a mask" in said[1], "a box is none"
    assert "4.png: A mask of runs of pixels is not one of 20 rows of 30." in said[2]
    assert "5.png: It names an anomaly 'Normal'" in said[3]
    expected = RING.copy()
    expected[1:5, 1:5] = True
    assert (mask_of(tmp_path / "parts", "scratch/2") == expected).all()


THIN = [8.1, 2.0, 8.3, 2.0, 8.3, 15.0, 8.1, 15.0]  # a scratch of a fifth of a pixel: between two columns of centers
STRAIGHT = [1.0, 1.0, 5.0, 5.0, 9.0, 9.0]
NOTHING = {"counts": [HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]}


@pytest.mark.parametrize(
    "marks",
    [
        [(2, [SQUARE]), (1, [THIN])],
        [(2, [SQUARE]), (1, [STRAIGHT])],
        [(1, [SQUARE, THIN])],  # polygons of one mark
        [(2, COMPRESSED), (1, NOTHING)],
        [(2, [SQUARE]), (1, [[40, 1, 50, 1, 50, 5]])],  # beside the image
    ],
)
def test_a_mark_of_coco_that_covers_no_pixel_is_told(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], marks: list[tuple[int, Any]]
) -> None:
    source = write(tmp_path / "train.json", coco({"2.png": marks, "3.png": [(2, [SQUARE, KEYHOLE])]}))
    said = taken(capsys, "coco", source, "--files", images, "--output", tmp_path / "parts")
    assert said[0].endswith("1 images were taken, 1 were not.")
    assert "train.json, 2.png: It has a 'scratch' that covers no pixel: draw it larger, or delete it (" in said[1]
    assert mask_of(tmp_path / "parts", "dent/3")[[2, 3], [2, 11]].all(), "polygons of one mark are one area"


def test_a_shape_of_datumaro_or_labelme_that_covers_no_pixel_is_told(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    polygons = [{"type": "polygon", "label_id": n, "points": points} for n, points in ((2, SQUARE), (1, THIN))]
    items = [
        {"id": name, "annotations": found, "image": {"path": f"{name}.png", "size": [HEIGHT, WIDTH]}}
        for name, found in (("2", polygons), ("3", polygons[:1]))
    ]
    categories = {"label": {"labels": [{"name": name} for name in NAMES]}}
    source = write(tmp_path / "train.json", {"categories": categories, "items": items})
    said = taken(capsys, "datumaro", source, "--files", images, "--output", tmp_path / "parts")
    assert "train.json, 2.png: It has a 'scratch' that covers no pixel" in said[1]
    stream = io.BytesIO()
    Image.new("L", (3, 3)).save(stream, "PNG")
    square = {"label": "dent", "points": [[1, 1], [5, 5]], "shape_type": "rectangle"}
    beside = [
        {"points": [[-90, 4], [-50, 4]], "shape_type": "line"},
        {"points": [[40, 4], [50, 4], [50, 9]], "shape_type": "polygon"},
        {"points": [[5, 5], [7, 7]], "shape_type": "mask", "mask": base64.b64encode(stream.getvalue()).decode()},
    ]
    for number, shapes in enumerate([[], *([shape] for shape in beside)], 2):
        shapes = [square, *({"label": "scratch", **shape} for shape in shapes)]
        content = {"shapes": shapes, "imageHeight": HEIGHT, "imageWidth": WIDTH, "imagePath": f"{number}.png"}
        write(tmp_path / "shapes" / f"{number}.json", content)
    said = taken(capsys, "labelme", tmp_path / "shapes", "--files", images, "--output", tmp_path / "others")
    assert said[0].endswith("1 images were taken, 3 were not.")
    assert all("It has a 'scratch' that covers no pixel" in sentence for sentence in said[1:4])


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("coco", [], "is no file of COCO, with lists of images, annotations and categories (TypeError"),
        ("coco", {"images": [], "categories": []}, "(KeyError: 'annotations')"),
        ("coco", {**coco({"2.png": [(9, [SQUARE])]})}, "(KeyError: 9)"),
        ("coco", {**coco({"2.png": [(1, [SQUARE])]}), "images": []}, "that it does not list, such as the one of id 40"),
        ("coco", coco({}), "There is no image in"),
        ("datumaro", {"categories": {"label": {"labels": []}}}, "is no file of Datumaro, with categories and items"),
        ("datumaro", {"categories": [], "items": []}, "(TypeError"),
        ("labelme", {}, "is no folder: give the one of LabelMe's files."),
    ],
)  # fmt: skip
def test_an_odd_file_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, content: object, message: str
) -> None:
    source = write(tmp_path / "sub" / "odd.json", content)
    assert main(["import", kind, str(source), "--output", str(tmp_path / "parts")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 2, "and how to see where it was raised"
    assert files_in(tmp_path) == ["sub/odd.json"]


@pytest.mark.parametrize(
    "area",
    [
        [[1, 1, 5, 5]], [[1, 1, 5, 1, 5]], ["abc"], [{}],
        [[[1, 2]]],
        {"counts": [10, 20], "size": [HEIGHT, WIDTH]}, {"counts": [10, -20, 610], "size": [HEIGHT, WIDTH]},
        {"counts": [10, 20, 570], "size": [WIDTH, HEIGHT]}, {"counts": [], "size": [HEIGHT, WIDTH]}, {"size": 3},
        {"counts": 3},
    ],
)  # fmt: skip
def test_an_odd_area_is_an_error(area: object) -> None:
    with pytest.raises((ValueError, LookupError, TypeError)):
        _runs_or_polygons(area, HEIGHT, WIDTH)


def test_compressed_runs_are_those_of_pycocotools() -> None:
    mask = pytest.importorskip("pycocotools.mask", reason="pip install '.[coco]'")
    random = np.random.default_rng(0)
    for density in (0, 0.001, 0.1, 0.5, 1):
        drawn = random.random((57, 301)) < density
        found = mask.encode(np.asfortranarray(drawn, np.uint8))
        area = {"counts": found["counts"].decode(), "size": found["size"]}
        assert sum(_decompressed(area["counts"])) == drawn.size
        assert (_runs_or_polygons(area, 57, 301) == drawn).all()


def test_shapes_are_drawn_as_labelme_draws_them() -> None:
    def drawn(kind: str, points: list[list[float]], **more: object) -> NDArray[np.bool_]:
        return _shape({"label": "x", "shape_type": kind, "points": points, **more}, 40, 60)

    def expected(method: str, *arguments: Any, **options: Any) -> NDArray[np.bool_]:
        """A transcription of labelme.utils.shape_to_mask."""
        canvas = Image.fromarray(np.zeros((40, 60), np.uint8))
        getattr(ImageDraw.Draw(canvas), method)(*arguments, fill=1, **options)
        return np.array(canvas, dtype=bool)

    triangle = [[5.5, 5.2], [30.1, 8.7], [12, 33.4]]
    plain = [tuple(point) for point in triangle]
    assert (drawn("polygon", triangle) == expected("polygon", plain, outline=1)).all()
    assert (drawn("linestrip", triangle) == expected("line", plain, width=10)).all()
    distance = math.dist([20, 20], [25, 23])
    box = ((20 - distance, 20 - distance), (20 + distance, 20 + distance))
    assert (drawn("circle", [[20, 20], [25, 23]]) == expected("ellipse", box, outline=1)).all()
    assert (drawn("point", [[20, 20]]) == expected("ellipse", ((15, 15), (25, 25)), outline=1)).all()
    assert (drawn("rectangle", [[30, 5], [3, 9.5]]) == expected("rectangle", ((3, 5), (30, 9.5)), outline=1)).all()
    stream = io.BytesIO()
    Image.fromarray(RING[4:10, 5:15]).save(stream, "PNG")
    mask = drawn("mask", [[5, 4], [14, 9]], mask=base64.b64encode(stream.getvalue()).decode())
    assert (mask[:HEIGHT, :WIDTH] == RING).all(), "with its hole"
    assert mask.sum() == RING.sum()
