# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The rows of judged images: their columns and verdicts, two files of them, and their summary."""

import csv
import io
import json
import logging
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from functools import lru_cache, partial
from heapq import heappush, heappushpop
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from anople_anomalib.utils.files import make_folder, written_whole
from anople_anomalib.utils.lines import cut_half_line, json_lines, sole_writer
from anople_anomalib.utils.version import __version__

from .regions import place_of, regions_of

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

OK, NOT_OK, LOOK, ERROR = "OK", "NOT OK", "LOOK", "ERROR"
"""The verdicts of a row. OK alone counts as good; LOOK asks a person, because too little is known."""

COLUMNS = (
    "path", "category", "verdict", "score", "normalized_score", "threshold", "rank", "regions", "place", "seconds",
    "error", "modified", "bytes", "changed", "sha256", "time", "versions", "model",
)  # fmt: skip
"""``rank`` is that among the good parts behind the threshold, ``place`` that of the largest region, both in words;
``modified`` (nanoseconds), ``bytes`` and, in rows of a watch, ``changed`` (by the system's own clock) and ``sha256``
tell which file it was, where a command of this package has read it; ``time`` (with its zone), ``versions`` (of the
packages at work) and ``model`` (a digest of all that decides) are those of the verdict."""
_WORST = 5
_ENCODING, _ERRORS = "utf-8", "backslashreplace"  # names of files that are no text are escaped
_opened = partial(Path.open, encoding=_ENCODING, errors=_ERRORS)


class Judgment(NamedTuple):
    """A prediction of one image, and the limits that it is judged by."""

    score: float  # raw
    normalized: float | None
    threshold: float | None  # raw
    anomalous: bool | None  # None where it was not labeled
    mask: NDArray[np.bool_] | None  # shape (h, w)
    heat: NDArray[np.floating[Any]] | None  # shape (h, w)
    zone: Sequence[float] | None  # raw scores above the first and up to the second of which somebody has to look
    good: Sequence[float]  # raw scores of the good parts behind the threshold

    def row(self, size: tuple[int, int], remedy: str) -> dict[str, Any]:
        """Return its part of a row: no verdict without a threshold and a score that is a number.

        Args:
            size: Width and height of the image as it was read.
            remedy: How a model gets a threshold.
        """
        if not math.isfinite(self.score):
            error = f"The score is {self.score}: the image or the model has values that are no numbers."
            return {**unjudged(error), "threshold": self.threshold}
        row: dict[str, Any] = {"score": self.score, "normalized_score": self.normalized, "threshold": self.threshold}
        row |= {"regions": [], "rank": rank_of(self.score, self.good)}
        if self.threshold is None or self.anomalous is None:
            return {**row, "verdict": ERROR, "error": f"There is no threshold: {remedy}."}
        if self.mask is not None and self.heat is not None:
            row["regions"] = regions_of(self.mask, self.heat, size)
            row["place"] = place_of(row["regions"], size)
        return {**row, "verdict": verdict_of(self.anomalous, self.score, self.zone), "error": ""}


def rank_of(score: float, good: Sequence[float]) -> str:
    """Say how many of the good parts scored higher, such as ``3 of 20 good parts scored higher``; nothing of none."""
    higher = sum(each > score for each in good)
    return f"{higher} of {len(good)} good parts scored higher" if good else ""


def verdict_of(anomalous: bool, score: float, zone: Sequence[float] | None = None) -> str:
    """Return the verdict on a finite raw score, which may be in the zone of LOOK."""
    if zone is not None and zone[0] < score <= zone[1]:
        return LOOK
    return NOT_OK if anomalous else OK


def unjudged(error: str) -> dict[str, Any]:
    """Return the part of a row that says why there is no verdict."""
    empty = dict.fromkeys(("score", "normalized_score", "threshold"))
    return {**empty, "regions": [], "verdict": ERROR, "error": error}


def message_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as plain data."""
    return {**row, "regions": [region._asdict() for region in row["regions"]]}


def stamped(row: Mapping[str, Any], model_id: str | None) -> dict[str, Any]:
    """Return a row with the present time, with its zone, the versions of the packages at work, and the model."""
    return {
        **row,
        "model": model_id,
        "time": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "versions": _versions(),
    }


@lru_cache(maxsize=1)
def _versions() -> str:
    """Return the versions of this package and of those that judge in this process."""
    found = [f"anople_anomalib {__version__}"]
    for name in ("anomalib", "torch", "onnxruntime", "openvino"):
        if name in sys.modules:
            with suppress(PackageNotFoundError):  # a part of another program
                found.append(f"{name} {version(name)}")
    return ", ".join(found)


class TableWriter:
    """Writer of rows to ``predictions.csv`` and ``predictions.jsonl`` that keeps count of them.

    Args:
        folder: Folder of both files, made if missing.
        name: Name of both files without their suffix.
        append: Whether rows are added to those of an earlier run; otherwise the files of an earlier run, or of one that
            goes on, stay as they are, and these get the next free number: ``predictions_2.csv``.

    Attributes:
        number: Addition to the names: ``""``, or ``"_2"`` and so on.
        counts: Number of rows of each verdict.
    """

    def __init__(self, folder: Path, name: str = "predictions", *, append: bool = False) -> None:
        make_folder(folder)
        self._append, self.number = append, ""
        self._stem = folder / name
        self.counts = dict.fromkeys((OK, NOT_OK, LOOK, ERROR), 0)
        self._heap: list[tuple[float, int, dict[str, Any]]] = []

    def __enter__(self) -> "Self":
        """Open both files and write the header, where there is none.

        Raises:
            BlockingIOError: If rows are to be added, and another run writes there.
            FileExistsError: If they are to be added, and the folder of their pictures is somebody else's.
        """
        with ExitStack() as held:
            if self._append:
                held.enter_context(sole_writer(self._stem))
                if not self.jsonl_path.is_file() and self._pictures.exists():
                    msg = f"'{self._pictures}' is no folder of this program's pictures: give another --output."
                    raise FileExistsError(msg)
            else:
                self._claim(held)
            try:
                self._open()
            except OSError:  # such as a full disk: no empty file stays behind
                if not self._append:
                    self.jsonl_path.unlink(missing_ok=True)
                raise
            self._held = held.pop_all()
        return self

    def _open(self) -> None:
        """Open both files at their ends."""
        make_folder(self._stem.parent)
        mend(self.jsonl_path)
        self._jsonl_file: TextIO = _opened(self.jsonl_path, "a")
        self._csv_file: TextIO = _opened(self.csv_path, "a", newline="")
        self._writer = csv.DictWriter(self._csv_file, COLUMNS)

    @property
    def csv_path(self) -> Path:
        """The file for spreadsheets."""
        return self._stem.with_name(f"{self._stem.name}{self.number}.csv")

    @property
    def jsonl_path(self) -> Path:
        """The file for programs."""
        return self.csv_path.with_suffix(".jsonl")

    @property
    def _pictures(self) -> Path:
        """The folder of the pictures beside them; one of another run may be somebody's photographs."""
        return self._stem.with_name(f"images{self.number}")

    def _claim(self, held: ExitStack) -> None:
        """Make the first file of a name that nobody has, or is about to add rows to."""
        for self.number in chain([""], map("_{}".format, count(2))):
            if not any(path.exists() for path in (self.csv_path, self.jsonl_path, self._pictures)):
                with suppress(FileExistsError, BlockingIOError):
                    if not self.number:
                        held.enter_context(sole_writer(self._stem))
                    self.jsonl_path.touch(exist_ok=False)
                    return

    def __exit__(self, *exception: object) -> None:
        """Close both files."""
        with self._held, self._jsonl_file, self._csv_file:
            pass

    @property
    def worst(self) -> list[dict[str, Any]]:
        """The rows with the highest scores, worst first."""
        return [row for _, _, row in sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))]

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write and flush rows with the keys of :data:`COLUMNS`; ``regions`` is a list of :class:`Region`."""
        if not (self.jsonl_path.exists() and self.csv_path.exists()):
            logger.warning("'%s' or its CSV file was moved or removed: rows go to a new one.", self.jsonl_path)
            with self._jsonl_file, self._csv_file:
                pass
            self._open()
        for given in rows:
            plain = message_of(given)
            row: dict[str, Any] = {column: plain.get(column) for column in COLUMNS}
            self._jsonl_file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._writer.writerow(_cells(row))
            self.counts[row["verdict"]] += 1
            if row["score"] is not None and row["verdict"] != ERROR:
                # equal scores: the earlier row is the worse one, and rows themselves are never compared
                entry = (float(row["score"]), -sum(self.counts.values()), row)
                (heappush if len(self._heap) < _WORST else heappushpop)(self._heap, entry)
        self._jsonl_file.flush()  # by which the other is mended
        self._csv_file.flush()

    def summary(self) -> str:
        """Say in a few lines how many images there were and how many not OK, the worst ones, where everything is."""
        counts, without = self.counts, self.counts[ERROR]
        lines = [f"{sum(counts.values())} images: {counts[NOT_OK]} not OK, {counts[OK]} OK"]
        lines[0] += f", {counts[LOOK]} to look at" if counts[LOOK] else ""
        lines[0] += f", {without} could not be judged." if without else "."
        lines += [f"  {line_of(row)}" for row in self.worst]
        lines.append(f"Every image: {self.csv_path} and {self.jsonl_path.name}")
        return "\n".join(lines)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a ``predictions.jsonl``, none without the file; a line that is no row is left out."""
    return [row for row in json_lines(path) if isinstance(row.get("path"), str)]


def mend(path: Path) -> None:
    """Cut off the half line that a power failure leaves, and let the CSV file beside it hold the same rows.

    A CSV file that holds anything else is kept under another name.

    Args:
        path: A ``predictions.jsonl``, which need not be there.
    """
    if path.is_file():
        cut_half_line(path)
    table = path.with_suffix(".csv")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(map(_cells, rows_of(path)))
    expected = text.getvalue().encode(_ENCODING, _ERRORS)
    found = table.read_bytes() if table.is_file() else b""
    if not expected.startswith(found):
        names = (table.with_name(f"{table.stem}_kept_{number}.csv") for number in count(1))
        kept = next(name for name in names if not name.exists())
        table.rename(kept)
        logger.warning("'%s' holds other lines than %s: it is kept as '%s'.", table, path.name, kept)
    if found != expected:
        with written_whole(table) as temporary:
            temporary.write_bytes(expected)


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as it stands in CSV."""
    return {**row, "regions": json.dumps(row.get("regions", []))}


def line_of(row: Mapping[str, Any]) -> str:
    """Return a row as one line of text: verdict, score and threshold or the error, place of the defect, path."""
    if row["verdict"] == ERROR:
        return f"{row['verdict']:6} {row['error']}" + ("" if row["path"] in row["error"] else f"  {row['path']}")
    threshold = "" if row["threshold"] is None else f" (threshold {row['threshold']:.4g})"
    place = f" {row['place']}" if row.get("place") else ""
    return f"{row['verdict']:6} {row['score']:.4g}{threshold}{place}  {row['path']}"
