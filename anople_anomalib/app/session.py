# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The session of one person: teach, ask, move the threshold, correct, undo. No user interface."""

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Event, RLock

from anople_anomalib.anople import AnoPLe
from anople_anomalib.data.image_reading import image_digest, read_image
from anople_anomalib.data.listing import is_good
from anople_anomalib.method.memory_bank import MemoryBank
from anople_anomalib.metrics.bounds import GOOD
from anople_anomalib.metrics.study import Criteria
from anople_anomalib.presets import preset_names
from anople_anomalib.visualization.explanation import Shot
from anople_anomalib.visualization.samples import pixels_of

from .training import Answer, Good, Progress, Report, Thresholds, allowed, good_scores, judge, train, unheard
from .uploads import MAX_ASKED, MAX_GOOD, AppError, Photo, take_in

OFFLINE = "offline"
"""The preset of the page, where none is chosen."""
SHORT_STEPS = FULL_EPOCHS = 60
"""Steps of a short training run: those of one image in the epochs of the paper's, which a full one takes."""
_Known = list[tuple[str, Answer]]
_State = tuple[list[Photo], list[Good], list[Answer], _Known, Thresholds, tuple[list[str], list[str]]]


class Session:
    """One person's images, model and answers, in a temporary folder of their own.

    Args:
        ckpt_path: Checkpoint of a trained model to start from.
        root: Folder to make the session's folder in; ``None`` for the system's temporary folder.
        journal: Journal of all that changes a model, see :mod:`~anople_anomalib.deployment.journal`.

    Attributes:
        folder: The folder; :meth:`close` removes it.
        part: Name of the part, beside the preset and the epochs of its model.
        taught: The good images.
        corrected: The images that were said to be good.
        answers: The model's answers on the images that it was asked about, worst first.
        known: Kinds of known parts, which no model has learned, and the answers on them.
        criteria: Limits of their study.
        good: Score and largest value of the map of every good image, judged by the memory of the others.
        thresholds: The present thresholds.
        progress: How far the present or the last training run is.
        stop: Set to end the training run after its present step, or before it begins.
        lock: Held by whoever changes the session.
    """

    def __init__(self, ckpt_path: Path | None = None, root: Path | None = None, journal: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="session-", dir=root))
        self.part, self.preset, self.epochs = "object", OFFLINE, 0
        self.taught: list[Photo] = []
        self.corrected: list[Photo] = []
        self.answers: list[Answer] = []
        self.known: _Known = []
        self.criteria = Criteria()
        self.good: list[Good] = []
        self.thresholds = self._noted = Thresholds(float("nan"), float("nan"))
        self._journal = journal
        self.stop, self.lock = Event(), RLock()
        self.progress = Progress(self.stop)
        self._undo, self._asked = list[tuple[list[MemoryBank], _State]](), 0
        self._model: AnoPLe | None = None
        self._calibration: list[float] = []  # of a model from a checkpoint
        self._shown: list[Photo] = []  # the good images in the memory, in its order
        if ckpt_path is not None:
            self._take(AnoPLe.load_from_checkpoint(ckpt_path, visualizer=False).cpu().eval())
            self.part = ", ".join(self.model.class_names) or self.part

    def close(self) -> None:
        """Stop a training run, and remove everything that was uploaded."""
        self.stop.set()
        self._model = None
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def model(self) -> AnoPLe:
        """The trained model; an :class:`AppError` if there is none yet."""
        if self._model is None:
            msg = "There is no trained model yet: teach it good parts first."
            raise AppError(msg)
        return self._model

    @property
    def is_trained(self) -> bool:
        """Whether there is a trained model."""
        return self._model is not None

    def add_good(self, files: Sequence[str | Path], names: Sequence[str] = ()) -> None:
        """Add good images to teach from, by names instead of the files' own where given; see :func:`take_in`."""
        self.taught += take_in(files, self.folder / "good", MAX_GOOD, self.taught, names)

    def clear_good(self) -> None:
        """Forget the good images; a trained model stays."""
        shutil.rmtree(self.folder / "good", ignore_errors=True)
        self.taught = []

    def teach(
        self, part: str, preset: str = OFFLINE, full: bool = False, report: Report = unheard, reason: str = ""
    ) -> None:
        """Train a model on the good images.

        Args:
            part: Name of the part.
            preset: Preset of the model.
            full: Whether for the paper's 60 epochs, else for as many steps as one image takes then.
            report: Told every step.
            reason: The reason, for the journal.

        Raises:
            AppError: If there is no image or no such preset, or it was stopped before it began.
        """
        if not self.taught:
            msg = "There is no good image yet: drop at least one."
            raise AppError(msg)
        if preset not in preset_names():
            msg = f"There is no preset {preset!r}: choose one of {', '.join(preset_names())}."
            raise AppError(msg)
        part = " ".join(part.split())[:60] or "object"
        epochs = FULL_EPOCHS if full else max(1, round(SHORT_STEPS / len(self.taught)))
        photos, self.progress = list(self.taught), Progress(self.stop, report)
        try:
            if self.stop.is_set():
                msg = "Stopped before the training run began."
                raise AppError(msg)
            model = train(self.folder, part, preset, epochs, self.progress)
        finally:
            self.stop.clear()
        with self.lock:
            self.part, self.preset, self.epochs = part, preset, epochs
            self._take(model, photos)
            self.note("teach", reason, photos)

    def _take(self, model: AnoPLe, photos: Sequence[Photo] = ()) -> None:
        """Begin anew with another model."""
        processor = model.require_thresholds()
        if processor.image_threshold.isnan():
            msg = "This model has no threshold, and so no verdicts: set one by anople threshold."
            raise AppError(msg)
        self._model, self.corrected, self._undo = model, [], []
        self._shown = list(photos)
        self.good = good_scores(model, photos)
        self.thresholds = Thresholds(float(processor.image_threshold), float(processor.pixel_threshold))
        self._noted, self._calibration = self.thresholds, processor.normal_scores
        self._judge_again()

    def ask(self, files: Sequence[str | Path], names: Sequence[str] = ()) -> list[Answer]:
        """Judge images, and return their answers; if one is refused, none is. Arguments as of :meth:`add_good`."""
        _ = self.model
        taken, folder = [answer.photo for answer in self.answers], self.folder / "asked" / str(self._asked)
        photos = take_in(files, folder, MAX_ASKED, taken, names)
        self._asked += 1
        return self._judge(photos, self.answers)

    def prove(self, files: Sequence[str | Path], kind: str, names: Sequence[str] = ()) -> None:
        """Judge known parts of a kind, ``"good"`` or a defect, for a study; if one is refused, none is taken.

        Raises:
            AppError: As :meth:`add_good`, or if the model has learned one, or one is there already.
        """
        known = self.model.require_thresholds().known_images
        taken, folder = [answer.photo for _, answer in self.known], self.folder / "known" / str(self._asked)
        photos = take_in(files, folder, MAX_ASKED, taken, names)
        self._asked += 1
        kept = [image_digest(photo.path) for photo in photos]
        learned = set(kept).intersection(known)
        if learned or len({*kept, *(image_digest(photo.path) for photo in taken)}) < len(kept) + len(taken):
            shutil.rmtree(folder)
            msg = "The model rests on one of these images" if learned else "One of these images is there twice"
            msg += ": give every part once, and none that it has seen."
            raise AppError(msg)
        kind = " ".join(kind.split())[:60] or "defective"
        kind = GOOD if is_good(kind) else kind
        self.known = [*self.known, *((kind, judge(self.model, photo)) for photo in photos)]

    def clear_known(self) -> None:
        """Forget the known parts."""
        shutil.rmtree(self.folder / "known", ignore_errors=True)
        self.known, self._undo = [], []

    def _judge_again(self) -> None:
        """Judge all images again, by another model or memory."""
        self._judge(answer.photo for answer in self.answers)
        self.known = [(kind, judge(self.model, answer.photo)) for kind, answer in self.known]

    def _judge(self, photos: Iterable[Photo], others: Sequence[Answer] = ()) -> list[Answer]:
        """Judge images, beside others' answers, and return theirs."""
        answers = [judge(self.model, photo) for photo in photos]
        self.answers = sorted([*others, *answers], key=lambda answer: -answer.score)
        return answers

    def clear_answers(self) -> None:
        """Forget the images that were judged."""
        shutil.rmtree(self.folder / "asked", ignore_errors=True)
        self.answers, self._undo = [], []

    def is_bad(self, answer: Answer) -> bool:
        """Return the verdict on an image by the present threshold."""
        return answer.score > self.thresholds.image

    @property
    def good_scores(self) -> list[float]:
        """Raw scores of the good images behind the threshold; of a checkpoint those of its calibration, too."""
        return [*([] if self._shown else self._calibration), *(each.score for each in self.good)]

    def settled(self, reason: str = "") -> AnoPLe:
        """Return the model with the present thresholds; the journal gets a line if they are others than before."""
        model = self.model
        model.set_thresholds(*self.thresholds)
        model.require_thresholds().normal_scores = sorted(self.good_scores)
        if self.thresholds != self._noted:
            self.note("threshold", reason)
        return model

    def note(self, action: str, reason: str, photos: Iterable[Photo] = ()) -> None:
        """Add a line to the journal, if there is one."""
        self._noted = self.thresholds
        if self._journal is not None:
            images = [photo.path for photo in photos]
            self.settled().note(self._journal, action, reason, images=images, part=self.part)

    def shots(self) -> list[Shot]:
        """Return the images in the memory, in its order; empty for a model from a checkpoint."""
        photos = [*self._shown, *self.corrected] if self._shown else []
        return [Shot(photo.name, pixels_of(read_image(photo.path))) for photo in photos]

    def set_threshold(self, value: float) -> None:
        """Move the threshold to a positive raw score; that of the pixels moves in proportion, without a new pass."""
        if not 0 < value < float("inf"):
            msg = f"A threshold must be a positive number, got {value}."
            raise AppError(msg)
        _ = self.model
        self.thresholds = Thresholds(value, self.thresholds.pixel * value / self.thresholds.image)

    def allow_false_alarms(self, rate: float | None) -> None:
        """Move the threshold by a share of false alarms, see :func:`allowed`; too few images are an AppError."""
        if not self.good:
            msg = "No good image is known: a model from a checkpoint holds none. Say of one below that it is good."
            raise AppError(msg)
        try:
            self.thresholds = allowed(self.good, rate)
        except ValueError as error:
            raise AppError(str(error)) from error

    def this_is_good(self, answer: Answer, reason: str = "") -> None:
        """Add an image to the memory, which must not hold it yet, and update the threshold and all answers."""
        if answer.photo in self.corrected:
            msg = f"'{answer.photo.name}' is in the memory already."
            raise AppError(msg)
        banks = [bank.twin() for bank in self._banks()]  # a memory that grows gets other tensors: these stay
        processor = self.model.require_thresholds()
        learned = processor.known_images, processor.learned_images
        before = banks, (self.corrected, self.good, self.answers, self.known, self.thresholds, learned)
        self.model.extend_memory_bank(answer.photo.path)
        self._undo.append(before)
        self.corrected = [*self.corrected, answer.photo]
        if self._shown:
            self.good = good_scores(self.model, [*self._shown, *self.corrected])
            self.thresholds = allowed(self.good, None)
        else:  # of a checkpoint the good images are not known: this one as it was judged before, and never lower
            self.good = [*self.good, Good(answer.score, float(answer.heat.max()))]
            self.thresholds = Thresholds(*map(max, self.thresholds, allowed(self.good, None)))
        self._judge_again()
        self.note("this is good", reason, [answer.photo])

    def undo(self, reason: str = "") -> None:
        """Take the last correction back; an :class:`AppError` if there is none."""
        if not self._undo:
            msg = "There is no correction to undo."
            raise AppError(msg)
        banks, state = self._undo.pop()
        for bank, twin in zip(self._banks(), banks, strict=True):
            bank.restore(twin)
        self.corrected, self.good, self.answers, self.known, self.thresholds, learned = state
        processor = self.model.require_thresholds()
        processor.known_images, processor.learned_images = learned
        self.note("undo", reason)

    def _banks(self) -> list[MemoryBank]:
        """Return the memories of the model."""
        model = self.model.model
        second = None if model.second_memory is None else model.second_memory.memory_bank
        return [bank for bank in (model.memory_bank, second) if bank is not None]
