# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A trained AnoPLe in production: new normal parts, thresholds for them, a file of the result."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from anomalib.data import ImageBatch
from lightning.pytorch import Trainer
from torch import nn

from anople_anomalib.method.state_checks import require_memory
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.metrics.thresholds import Promise
from anople_anomalib.utils.files import digest_of, require_checkpoint_place, written_whole
from anople_anomalib.utils.transforms import transform_of

from .components import DefaultComponents
from .export import Export

if TYPE_CHECKING:
    from anople_anomalib.data.listing import Images

logger = logging.getLogger(__name__)

_SAME = 1e-5
"""Largest memory distance of an image that lies in the memory itself: nothing but rounding."""
_LEARNED = "'{}' is in the memory itself, so that its distance is 0: give other normal images."


class Maintenance(DefaultComponents, Export):
    """Changes of a trained model without training, mixed into the model."""

    @torch.no_grad()
    def extend_memory_bank(self, images: "Images", category: str | None = None) -> None:
        """Add normal images to the memory: parts that look like them are normal from now on.

        Prompts, decoder and thresholds stay; see :meth:`recompute_thresholds`. An image that the memory has learned
        already, or a copy of another, is left out with a warning.

        Args:
            images: Normal images: tensors with values in [0, 1], files, folders, or a list of them.
            category: Their category, for a model that has a memory per category and was trained on several.

        Raises:
            RuntimeError: If the model is not trained or has no memory bank.
            FileNotFoundError: If there is no such file or folder.
            ValueError: If a category must be given and is not, or the reverse, or if there is no image, one cannot be
                read, or a tensor has another shape or range.
        """
        from anople_anomalib.data.image_reading import pixel_digest
        from anople_anomalib.data.listing import each_image

        self.require_training()
        if self.model.memory_bank is None:
            msg = "This model was trained with memory.enabled false: it has no memory bank that could be extended."
            raise RuntimeError(msg)
        number = self._category_number(category)
        self.eval()
        self.require_one_region()
        processor, shots = self.post_processor, []
        known = set(processor.learned_images) if isinstance(processor, ExactPostProcessor) else set()
        for name, image in each_image(images):
            if (digest := pixel_digest(image[0])) in known:
                logger.warning("'%s' is in the memory already: nothing is added.", name)
                continue
            known.add(digest)
            shots.append(self.model.shot_features(self._pre_process(image)))
        for shot in shots:
            self.model.memory_bank.extend(shot.first, number, shot.first_inside)
            if (second := self.model.second_memory) is not None:
                second.memory_bank.extend(require_memory(shot.second), number, shot.second_inside)
        if isinstance(processor, ExactPostProcessor):
            processor.know(known, learned=True)
        logger.info("%d images were added to the memory: %d features.", len(shots), len(self.model.memory_bank))

    def _category_number(self, category: str | None) -> int:
        """Return the number of a category in the memory: 0 where it does not keep them apart."""
        several = require_memory(self.model.memory_bank).num_categories > 1
        names = list(self.drawn_samples) if several else []
        if category is None and not names:
            return 0
        if category not in names:
            one = "Give no category: the memory is one for all." if not names else f"Give one of {', '.join(names)}."
            msg = f"The new images cannot be put into the memory of the category {category!r}. {one}"
            raise ValueError(msg)
        return names.index(category)

    @torch.no_grad()
    def recompute_thresholds(self, images: "Images", promise: Promise | None = None) -> int:
        """Compute the thresholds anew, from normal images alone: the fence of their scores, see :mod:`.thresholds`.

        Args:
            images: At least two normal images that are not in the memory, as for :meth:`extend_memory_bank`.
            promise: A bound of the false alarms that the thresholds keep.

        Returns:
            How many images there were.

        Raises:
            RuntimeError: If the model is not trained or has no post-processor with thresholds.
            FileNotFoundError: If there is no such file or folder.
            ValueError: If there are fewer than two images or too few for the promise, one is in the memory, a copy of
                another, or cannot be read, or a tensor has another shape or range.
        """
        from anople_anomalib.data.image_reading import note_picture, pixel_digest
        from anople_anomalib.data.listing import each_image

        self.require_training()
        self.require_one_region()
        processor = self.require_thresholds()
        self.eval()
        found: dict[str, str] = {}
        processor.forget()
        try:
            for name, image in each_image(images):
                note_picture(found, digest := pixel_digest(image[0]), name)
                if digest in processor.learned_images:
                    raise ValueError(_LEARNED.format(name))
                processor.on_validation_batch_end(None, self, self._judge_normal(image, name))
            if len(found) < 2:
                msg = f"Thresholds need at least two normal images that are not in the memory, got {len(found)}."
                raise ValueError(msg)
            processor.fit_thresholds(promise)
        finally:
            processor.forget()
        processor.know(found)
        return len(found)

    def set_thresholds(self, image: float | None = None, pixel: float | None = None) -> None:
        """Set raw thresholds of a trained model, see :meth:`.ExactPostProcessor.set_thresholds`."""
        self.require_training()
        processor = self.require_thresholds()
        processor.set_thresholds(image, pixel)
        if image is not None:
            processor.normal_only = False  # it comes from no image

    def require_thresholds(self) -> ExactPostProcessor:
        """Return the post-processor, or raise a RuntimeError if it has no thresholds that can be set."""
        if not isinstance(self.post_processor, ExactPostProcessor):
            msg = f"This model has no post-processor whose thresholds can be changed, got {self.post_processor!r:.60}."
            raise RuntimeError(msg)
        return self.post_processor

    def save_checkpoint(self, path: str | Path) -> None:
        """Write the model as anomalib's checkpoint, which every later command takes as ``ckpt_path``.

        Args:
            path: File to write; missing folders are made.

        Raises:
            RuntimeError: If the model is not trained.
            ValueError: If the path ends as another format does.
            OSError: If nothing can be written there.
        """
        self.require_training()
        require_checkpoint_place(path)
        # a trainer that runs nothing: it alone writes the checkpoint that anomalib reads, without optimizer states
        trainer = Trainer(logger=False, accelerator="cpu", enable_model_summary=False, enable_progress_bar=False)
        trainer.strategy.connect(self)
        with written_whole(path) as temporary:
            trainer.save_checkpoint(temporary, weights_only=True)

    def note(
        self, journal: Path, action: str, reason: str, file: Path | None = None, images: "Images" = (), **more: object
    ) -> None:
        """Add a line on this model to a journal, see :mod:`.journal`.

        Args:
            journal: The file.
            action: The command, or the action on the page.
            reason: The reason, in the words of whoever did it.
            file: The checkpoint that was written.
            images: Image files that it rests on, kept by name and SHA-256.
            **more: Further entries, plain data.
        """
        from anople_anomalib.data.listing import files_of

        from .journal import add_line

        processor = self.require_thresholds()
        thresholds = [float(processor.image_threshold), float(processor.pixel_threshold)]
        entries = {"action": action, "reason": reason, "model": self.model_id(), "thresholds": thresholds, **more}
        if processor.normal_scores:
            entries["good"] = processor.calibration()
        if file is not None:
            entries |= {"file": file.name, "file_sha256": digest_of(file)}
        add_line(journal, **entries, images={image.name: digest_of(image) for image in files_of(images)})

    def _pre_process(self, image: torch.Tensor) -> torch.Tensor:
        """Resize and normalize as at validation, on the model's device; refuse another shape than the region's."""
        self.require_region("", image.shape[-2:])
        transform = transform_of(self.pre_processor) or nn.Identity()
        return transform(image.to(device=self.device, dtype=cast("torch.dtype", self.dtype)))

    def _judge_normal(self, image: torch.Tensor, name: str) -> ImageBatch:
        """Predict a normal image, and add its ground truth."""
        image = self._pre_process(image)
        bank, prediction = self.model.memory_bank, self.model(image)
        if bank is not None and bank(self.model.first_features(image).features).max() < _SAME:
            raise ValueError(_LEARNED.format(name))
        mask = torch.zeros_like(prediction.anomaly_map[:, 0], dtype=torch.bool)
        label = torch.zeros(len(image), dtype=torch.bool, device=self.device)
        return ImageBatch(image=image, gt_label=label, gt_mask=mask, **prediction._asdict())
