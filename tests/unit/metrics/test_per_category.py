# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

import logging
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPR, AUROC, F1Max
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule
from torch import Tensor

from anople_anomalib.metrics.per_category import PerCategoryEvaluator, metric_name
from anople_anomalib.report.results import split_metric_name

NAMES = ["image_AUROC", "image_AUPR", "image_F1Max", "pixel_AUROC", "pixel_AUPRO", "pixel_F1Max"]
CATEGORIES = ["bottle", "cable"]


def batch(category: str | None = None, masks: bool = True, seed: int = 0) -> ImageBatch:
    """Eight images, alternately of one and the other category unless one is given, normal and anomalous in turn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([False, False, True, True] * 2)
    truth = torch.zeros(8, 24, 24, dtype=torch.bool)
    truth[labels, 5:12, 5:12] = True
    return ImageBatch(
        image=torch.rand(8, 3, 24, 24, generator=generator),
        image_path=[f"{category or CATEGORIES[row % 2]}/{row}.png" for row in range(8)],
        pred_score=torch.rand(8, generator=generator) + 0.2 * labels,
        gt_label=labels,
        anomaly_map=torch.rand(8, 24, 24, generator=generator) + 0.3 * truth,
        gt_mask=truth if masks else None,
    )


def category_of(path: str) -> str:
    return path.split("/")[0]


def evaluate(evaluator: PerCategoryEvaluator, *batches: ImageBatch) -> dict[str, Tensor]:
    for number, part in enumerate(batches):
        evaluator.on_test_batch_end(None, None, None, part, number)
    return evaluator.compute()


def rows(whole: ImageBatch, category: str) -> ImageBatch:
    own = [row for row, path in enumerate(whole.image_path) if category_of(path) == category]
    return ImageBatch(
        image=whole.image[own],
        **{name: getattr(whole, name)[own] for name in ("pred_score", "gt_label", "anomaly_map", "gt_mask")},
    )


def test_one_category_has_anomalibs_names_and_values() -> None:
    values = evaluate(PerCategoryEvaluator(), batch(), batch(seed=1))
    assert list(values) == NAMES
    for cls in (AUROC, AUPR, F1Max):
        metric = cls(fields=["pred_score", "gt_label"])
        scores = [batch(), batch(seed=1)]
        for part in scores:
            part.pred_score = part.pred_score / 2  # anomalib squashes scores beyond 1, batch by batch
            metric.update(part)
        value = evaluate(PerCategoryEvaluator(), *scores)[f"image_{cls.__name__}"]
        assert value.item() == pytest.approx(metric.compute().item(), abs=1e-6)


def test_several_categories_equal_each_alone_and_their_mean() -> None:
    batches = [batch(), batch(seed=1), batch("cable", seed=2)]
    values = evaluate(PerCategoryEvaluator(CATEGORIES, category_of), *batches)
    assert set(values) == {*NAMES, *(f"{category}/{name}" for category in CATEGORIES for name in NAMES)}
    bottle = evaluate(PerCategoryEvaluator(), *(rows(part, "bottle") for part in batches[:2]))
    cable = evaluate(PerCategoryEvaluator(), *(rows(part, "cable") for part in batches))
    for name in NAMES:
        assert values[f"bottle/{name}"].item() == pytest.approx(bottle[name].item())
        assert values[f"cable/{name}"].item() == pytest.approx(cable[name].item())
        assert values[name].item() == pytest.approx((bottle[name] + cable[name]).item() / 2)


def test_computing_forgets_what_was_tested() -> None:
    evaluator = PerCategoryEvaluator(CATEGORIES, category_of)
    first = evaluate(evaluator, batch())
    evaluate(evaluator, batch(seed=1))
    assert evaluate(evaluator, batch()) == first


def test_images_without_masks_have_no_pixel_metrics(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        values = evaluate(PerCategoryEvaluator(), batch(masks=False))
    assert list(values) == NAMES[:3]
    assert (
        "Not defined, and so left out: pixel_AUROC, pixel_AUPRO, pixel_F1Max (the test images have no masks)."
        in caplog.text
    )


def test_means_say_which_category_they_leave_out(caplog: pytest.LogCaptureFixture) -> None:
    evaluator = PerCategoryEvaluator(CATEGORIES, category_of)
    evaluate(evaluator, batch())
    with caplog.at_level(logging.WARNING):
        values = evaluate(evaluator, batch("bottle"))
    assert values["image_AUROC"] == values["bottle/image_AUROC"]
    assert "No image of category 'cable' was tested" in caplog.text


def test_categories_are_found_in_the_datamodule() -> None:
    evaluator = PerCategoryEvaluator()
    datamodule = SimpleNamespace(categories=CATEGORIES, category_of=category_of)
    trainer = SimpleNamespace(world_size=1, datamodule=datamodule, callbacks=[])
    evaluator.setup(trainer, None, "test")
    values = evaluate(evaluator, batch())
    assert "cable/pixel_AUPRO" in values
    evaluator.setup(SimpleNamespace(world_size=1, datamodule=None, callbacks=[]), None, "test")
    assert list(evaluate(evaluator, batch())) == NAMES


def test_raw_scores_count_whatever_a_post_processor_makes_of_them() -> None:
    """The keeper is called before any other callback, the evaluator after the post-processor."""
    evaluator = PerCategoryEvaluator(metrics=["image_AUROC", "pixel_AUROC", "image_F1Score"])
    trainer = SimpleNamespace(world_size=1, datamodule=None, callbacks=[evaluator])
    evaluator.setup(trainer, None, "test")
    evaluator.setup(trainer, None, "test")
    keeper, last = trainer.callbacks
    assert last is evaluator
    part, expected = batch(), evaluate(PerCategoryEvaluator(), batch())
    keeper.on_test_batch_end(trainer, None, part, part, 0)
    part.pred_score, part.anomaly_map = part.pred_score.round(), part.anomaly_map.round()
    part.pred_label = part.gt_label
    values = evaluate(evaluator, part)
    assert values["image_AUROC"] == expected["image_AUROC"]
    assert values["pixel_AUROC"] == expected["pixel_AUROC"]
    assert values["image_F1Score"] == 1


def test_unknown_metrics_are_an_error() -> None:
    with pytest.raises(ValueError, match="Unknown metric 'AUROC': known are image_AUROC, "):
        PerCategoryEvaluator(metrics=["AUROC"])


def test_values_are_logged() -> None:
    evaluator, logged = PerCategoryEvaluator(), {}
    evaluator.log = logged.__setitem__
    evaluator.on_test_batch_end(None, LightningModule(), None, batch(), 0)
    evaluator.on_test_epoch_end(None, LightningModule())
    assert list(logged) == NAMES


def test_categories_without_a_way_to_tell_them_are_an_error() -> None:
    trainer = SimpleNamespace(world_size=1, datamodule=None, callbacks=[])
    with pytest.raises(ValueError, match="cannot tell the category of an image"):
        PerCategoryEvaluator(CATEGORIES).setup(trainer, None, "test")


def test_category_that_appears_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="must be named once"):
        PerCategoryEvaluator(["bottle", "bottle"])


def test_nothing_of_it_is_in_a_checkpoint() -> None:
    assert not PerCategoryEvaluator(CATEGORIES, category_of).state_dict()


def test_names_of_metrics_can_be_split_again() -> None:
    assert split_metric_name(metric_name("metal_nut", "pixel_AUPRO")) == ("metal_nut", "pixel_AUPRO")
    assert split_metric_name("image_AUROC") == (None, "image_AUROC")


def test_command_line_understands_it() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(PerCategoryEvaluator, "evaluator")
    parsed = parser.parse_args(["--evaluator=anople_anomalib.metrics.PerCategoryEvaluator"])
    assert isinstance(parser.instantiate_classes(parsed).evaluator, PerCategoryEvaluator)
