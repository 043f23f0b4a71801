# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Manifests of Lookout for Vision become folders, and what cannot be taken is told."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anople_anomalib.commands.main import main
from anople_anomalib.data.importing import import_data_set
from anople_anomalib.data.lookout import manifest_entries
from anople_anomalib.data.parts import Parts

BACKGROUND = {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0}
SCRATCH = {"class-name": "scratch", "hex-color": "#2ca02c", "confidence": 0.0}
DENT = {"class-name": "dent", "hex-color": "#1f77b4", "confidence": 0.0}


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """A copy of a bucket: good parts, two of one name, and masks in the colors of their kinds."""
    folder = tmp_path / "bucket"
    random = np.random.default_rng(0)
    for name in ("a/1.jpg", "b/1.jpg", "c/2.png", "c/3.png", "c/4.png", "c/5.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(folder / name)
    for number, boxes in {
        2: {(3, 4, 9, 8): "#2ca02c"},
        3: {(3, 4, 9, 8): "#2ca02c", (12, 4, 20, 9): "#1f77b4"},
        4: {(3, 4, 9, 8): "#000001"},
        5: {},
    }.items():
        mask = Image.new("RGB", (30, 20), "#ffffff")
        for box, color in boxes.items():
            mask.paste(color, box)
        (folder / "masks").mkdir(exist_ok=True)
        mask.save(folder / "masks" / f"{number}.png")
    return folder


def line(image: str, label: str, mask: str = "", classes: tuple[dict, ...] = (BACKGROUND, SCRATCH, DENT)) -> str:
    """A line of a manifest, as the service's guide describes it."""
    meta = {"class-name": label, "human-annotated": "yes", "type": "groundtruth/image-classification"}
    entry: dict[str, Any] = {"source-ref": f"s3://plant/project/{image}", "anomaly-label": int(label != "normal")}
    entry["anomaly-label-metadata"] = meta
    if mask:
        entry["anomaly-mask-ref"] = f"s3://plant/project/masks/{mask}"
        colors = {str(number): color for number, color in enumerate(classes)}
        meta = {"internal-color-map": colors, "type": "groundtruth/semantic-segmentation"}
        entry["anomaly-mask-ref-metadata"] = meta
    return json.dumps(entry)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_manifests_become_folders(bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [line("a/1.jpg", "normal"), line("b/1.jpg", "Normal")]
    train = write(tmp_path / "train.manifest", *good, line("c/2.png", "anomaly", "2.png"), line("c/5.png", "anomaly"))
    test = write(tmp_path / "test.manifest", line("c/4.png", "normal"), "", line("c/3.png", "anomaly", "3.png"))
    arguments = ["import", "lookout", str(train), "--test", str(test), "--files", str(bucket)]
    assert main([*arguments, "--output", str(tmp_path / "parts")]) == 3
    said = capsys.readouterr().out
    assert "5 images were taken, 1 were not." in said
    assert "line 4: '5.png' has an anomaly without a mask, and others have one" in said
    found = sorted(path.relative_to(tmp_path / "parts").as_posix() for path in (tmp_path / "parts").rglob("*.*"))
    assert found == [
        "ground_truth/scratch/2_mask.png", "ground_truth/several/3_mask.png", "test/good/4.png",
        "test/scratch/2.png", "test/several/3.png", "train/good/1.jpg", "train/good/1_1.jpg",
    ]  # fmt: skip
    assert (tmp_path / "parts/train/good/1_1.jpg").read_bytes() == (bucket / "b/1.jpg").read_bytes()
    for name, expected in (("scratch/2", 24), ("several/3", 24 + 40)):
        mask = np.asarray(Image.open(tmp_path / f"parts/ground_truth/{name}_mask.png").convert("L"))
        assert mask.shape == (20, 30)
        assert (mask > 0).sum() == expected
        assert mask[4, 3] == 255
    parts = Parts(tmp_path / "parts")
    parts.setup()
    assert len(parts.train_data.samples) == 2
    assert len(parts.test_data.samples) == 3


def test_names_that_look_like_patterns_do_not_replace_each_other(bucket: Path, tmp_path: Path) -> None:
    names = ("a/[1].jpg", "b/[1].jpg")
    for name in names:
        (bucket / name).write_bytes((bucket / name.replace("[1]", "1")).read_bytes())
    manifest = write(tmp_path / "train.manifest", *(line(name, "normal") for name in names))
    assert import_data_set(manifest_entries, manifest, None, bucket, tmp_path / "parts") == (2, [])
    assert len(list((tmp_path / "parts/train/good").iterdir())) == 2


def test_anomalies_need_no_mask_where_none_has_one(bucket: Path, tmp_path: Path) -> None:
    manifest = write(tmp_path / "train.manifest", line("a/1.jpg", "normal"), line("c/5.png", "anomaly"))
    arguments = ["import", "lookout", str(manifest), "--files", str(bucket), "--output", str(tmp_path / "parts")]
    assert main(arguments) == 0
    assert (tmp_path / "parts" / "test" / "anomaly" / "5.png").is_file()
    assert not (tmp_path / "parts" / "ground_truth").exists()


def test_what_cannot_be_taken_is_told(bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bucket / "broken.png").write_bytes(b"no image")
    manifest = write(
        tmp_path / "train.manifest",
        line("a/1.jpg", "normal"),
        line("c/4.png", "anomaly", "4.png"),
        line("c/5.png", "anomaly", "5.png"),
        line("gone.png", "normal"),
        line("c/2.png", "rust"),
        line("broken.png", "normal"),
        "no JSON",
        '{"source-ref": "s3://plant/project/c/2.png"}',
        line("c/2.png", "anomaly", "2.png", classes=(SCRATCH,)),  # all other colors are the background
    )
    arguments = ["import", "lookout", str(manifest), "--files", str(bucket), "--output", str(tmp_path / "parts")]
    assert main(arguments) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("2 images were taken, 7 were not.")
    for text, sentence in zip(
        (
            "line 2: The mask '4.png' has the color #000001, which its color map does not name.",
            "line 3: '5.png' is an anomaly, but its mask is empty.",
            "line 4: There is no copy of 's3://plant/project/gone.png'",
            "line 5: '2.png' is labeled 'rust', neither 'normal' nor 'anomaly'.",
            "line 6: The image '",
            "line 7: A line of a manifest has the address of an image as 'source-ref', this one has not: no JSON",
            "line 8: '2.png' has no label",
        ),
        said[1:],
        strict=True,
    ):
        assert text in sentence
    assert main(arguments) == 1  # nothing is overwritten
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../../beside", "a/b", "good", "OK", "", "..", "a\\b"])
def test_a_kind_of_defect_is_a_folder_of_its_own(bucket: Path, tmp_path: Path, name: str) -> None:
    renamed = SCRATCH | {"class-name": name}
    lines = [line("a/1.jpg", "normal"), line("c/2.png", "anomaly", "2.png", classes=(BACKGROUND, renamed, DENT))]
    manifest = write(tmp_path / "train.manifest", *lines)
    number, (reason,) = import_data_set(manifest_entries, manifest, None, bucket, tmp_path / "deep" / "parts")
    assert number == 1
    assert f"names an anomaly {name!r}: that is no name of a folder of defects." in reason
    written = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.jpg")}
    assert written == {"bucket", "deep"}
    assert not list((tmp_path / "deep").rglob("2.png"))


def test_a_mask_has_the_size_of_its_image(bucket: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 10), "#2ca02c").save(bucket / "masks" / "2.png")
    lines = [line("a/1.jpg", "normal"), line("c/2.png", "anomaly", "2.png")]
    _, (reason,) = import_data_set(
        manifest_entries, write(tmp_path / "train.manifest", *lines), None, bucket, tmp_path / "parts"
    )
    assert "The mask of '2.png' has 30x10 pixels, and the image 30x20." in reason


def test_nothing_is_made_of_nothing(bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write(tmp_path / "train.manifest", line("../../gone.png", "normal"))
    arguments = ["import", "lookout", str(manifest), "--files", str(bucket), "--output", str(tmp_path / "parts")]
    assert main(arguments) == 1
    assert "None of the 1 images could be taken, such as train.manifest, line 1:" in capsys.readouterr().err
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "There is no image in"),
        (b"\xff\n", "cannot be read: give a text file in UTF-8"),
        (b"[]\n", "line 1: A line of a manifest has the address of an image as 'source-ref', this one has not: []"),
        (b'{"source-ref": 3}\n', "this one has not"),
        (b'{"source-ref": "a/1.jpg", "l-metadata": [1], "l": 1}\n', "has no label of the type"),
    ],
)
def test_an_odd_manifest_is_one_sentence(bucket: Path, tmp_path: Path, content: bytes, message: str) -> None:
    manifest, output = tmp_path / "train.manifest", tmp_path / "parts"
    manifest.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        import_data_set(manifest_entries, manifest, None, bucket, output)
    with pytest.raises(ValueError, match="cannot be read"):
        import_data_set(manifest_entries, tmp_path / "none", None, bucket, output)
    with pytest.raises(NotADirectoryError, match="check --files"):
        import_data_set(manifest_entries, manifest, None, tmp_path / "none", output)
    assert not output.exists()


@pytest.mark.parametrize("classes", [({"class-name": "x"},), ({"hex-color": 3, "class-name": "x"},), ("red",)])
def test_a_mask_has_a_map_of_its_colors(bucket: Path, tmp_path: Path, classes: tuple) -> None:
    lines = [line("a/1.jpg", "normal"), line("c/2.png", "anomaly", "2.png", classes=classes)]
    _, (reason,) = import_data_set(
        manifest_entries, write(tmp_path / "train.manifest", *lines), None, bucket, tmp_path / "parts"
    )
    assert "The mask of '2.png' has no map of its colors" in reason
