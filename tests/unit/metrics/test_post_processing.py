# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds and normalized scores."""

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.post_processing import PostProcessor
from torch import Tensor

from anople_anomalib.anople import AnoPLe
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.metrics.thresholds import MARGIN, Promise, between, good_threshold, look_zone
from helpers.training import make_model


def batch(scores: list[float], labels: list[bool] | None = None, maps: Tensor | None = None) -> ImageBatch:
    number = len(scores)
    maps = torch.tensor(scores).reshape(-1, 1, 1).expand(-1, 4, 4).clone() if maps is None else maps
    truth = None if labels is None else torch.tensor(labels)
    return ImageBatch(
        image=torch.zeros(number, 3, 4, 4),
        pred_score=torch.tensor(scores),
        anomaly_map=maps,
        gt_label=truth,
        gt_mask=None if truth is None else truth.reshape(-1, 1, 1).expand(-1, 4, 4).clone(),
    )


def fit(processor: ExactPostProcessor, *batches: ImageBatch) -> ExactPostProcessor:
    for each in batches:
        processor.on_validation_batch_end(None, None, each)
    processor.on_validation_epoch_end(None, None)
    return processor.eval()


def labels_of(processor: ExactPostProcessor, scores: list[float]) -> list[bool]:
    judged = batch(scores)
    processor.post_process_batch(judged)
    return judged.pred_label.tolist()


def test_threshold_lies_midway_between_two_scores() -> None:
    processor = fit(ExactPostProcessor(), batch([0.1, 0.4], [False, True]), batch([0.2, 0.3], [False, False]))
    assert processor.image_threshold.item() == pytest.approx(0.35)
    assert processor.pixel_threshold.item() == pytest.approx(0.35)
    assert labels_of(processor, [0.1, 0.2, 0.3, 0.4]) == [False, False, False, True]
    noisy = [0.3 * (1 + 1e-5), 0.4 * (1 - 1e-5)]  # as another runtime rounds
    assert labels_of(processor, noisy) == [False, True]


def test_of_few_normal_images_the_threshold_is_just_above_the_largest_score() -> None:
    processor = fit(ExactPostProcessor(), batch([0.1, 0.2], [False, False]))
    assert processor.image_threshold.item() == pytest.approx(0.2, rel=2e-3)
    assert labels_of(processor, [0.2 * (1 + 1e-5), 0.21]) == [False, True]
    assert processor.normal_scores == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_normal_scores_alone_have_a_fence_that_an_odd_one_does_not_move(factor: float) -> None:
    scores = [factor * score for score in (0.1, 0.11, 0.12, 0.13, 0.14)]
    expected = factor * (0.13 + 1.5 * (0.13 - 0.11))
    assert fit(ExactPostProcessor(), batch(scores, [False] * 5)).image_threshold.item() == pytest.approx(expected)
    odd = [*scores, 20 * factor]
    lower, upper = np.quantile(odd, [0.25, 0.75])
    processor = fit(ExactPostProcessor(), batch(odd, [False] * 6))
    assert processor.image_threshold.item() == pytest.approx(upper + 1.5 * (upper - lower))
    assert processor.pixel_threshold.item() == pytest.approx(processor.image_threshold.item())  # of the maps' maxima
    assert labels_of(processor, odd) == [False] * 5 + [True]


def test_few_shots_have_the_threshold_of_its_definition() -> None:
    """2.5 times the geometric mean of the held-out scores' upper end and, twice, the shots' own spread."""
    scores, spreads = [0.4, 0.1, 0.2, 0.3], [0.3, 0.1, 0.2]
    upper = 0.3 + 0.7 * 0.1  # at nine tenths of the way from the first to the fourth
    expected = (1 + MARGIN) * 2.5 * (0.2**2 * upper) ** (1 / 3)
    assert good_threshold(torch.tensor(scores), spreads=spreads) == pytest.approx(expected)
    alone = (0.145 * 2.5 * 0.0005 ** (1 / 3)) ** 0.5  # of one shot: half of the way to an average part's
    assert good_threshold(torch.tensor([0.2]), spreads=[0.05]) == pytest.approx((1 + MARGIN) * alone)
    plain = good_threshold(torch.tensor(scores), spreads=[0.001] * 4)  # a plain background is like itself everywhere
    assert plain == pytest.approx((1 + MARGIN) * 0.8 * upper)
    processor = ExactPostProcessor()
    processor.spreads = spreads
    fit(processor, batch(scores, [False] * 4))
    assert float(processor.image_threshold) == pytest.approx(expected)
    assert processor.spreads == []  # of those shots alone


def test_twenty_shots_are_a_calibration_like_any_other() -> None:
    scores = torch.linspace(0.1, 0.2, 20)
    assert good_threshold(scores, spreads=[0.05] * 20) == good_threshold(scores)
    assert good_threshold(scores[:19], spreads=[0.05] * 19) != good_threshold(scores[:19])


def test_a_fence_is_kept_off_the_scores() -> None:
    alike = fit(ExactPostProcessor(), batch([0.2] * 6 + [0.5], [False] * 7)).image_threshold.item()
    assert alike == pytest.approx(0.2 * (1 + MARGIN))
    beside = 2.5 * (1 + 1e-6)  # of an image beyond the fence, which is at 2.5
    processor = fit(ExactPostProcessor(), batch([1.0, 1.0, 1.0, 1.6, 1.6, 1.6, 1.6, 2.5, beside], [False] * 9))
    assert processor.image_threshold.item() == pytest.approx((2.5 + beside) / 2, rel=1e-7)


def test_few_normal_images_are_told_with_every_verdict() -> None:
    processor = fit(ExactPostProcessor(), batch([0.1, 0.2], [False, False]))
    restored = ExactPostProcessor()
    restored.load_checkpoint_config(processor.checkpoint_config())
    for each in (processor, restored):
        assert each.doubt().startswith("The threshold rests on 2 good images alone: set it from 20 or more")
    assert "rests on 4 good images alone:" in fit(ExactPostProcessor(), batch([0.1] * 4, [False] * 4)).doubt()
    assert "cannot show how good parts differ" in fit(ExactPostProcessor(), batch([0.1], [False])).doubt()
    assert fit(ExactPostProcessor(), batch([0.1] * 20, [False] * 20)).doubt() == ""
    assert fit(ExactPostProcessor(), batch([0.1, 0.4], [False, True])).doubt() == ""  # by the largest F1 score
    assert fit(ExactPostProcessor(image_threshold=0.2), batch([0.1], [False])).doubt() == ""
    assert ExactPostProcessor().doubt() == ""


def test_without_normal_images_everything_is_flagged() -> None:
    assert labels_of(fit(ExactPostProcessor(), batch([0.1, 0.2], [True, True])), [0.1, 0.2]) == [True, True]


def test_normalized_scores_keep_their_order_and_never_saturate() -> None:
    processor = ExactPostProcessor(image_threshold=0.05, pixel_threshold=0.05)
    raw = torch.cat([torch.zeros(1), torch.logspace(-12, 0, 2000)])
    scaled = processor(InferenceBatch(pred_score=raw)).pred_score
    assert (scaled[1:] > scaled[:-1]).all()
    assert scaled[0] < 1e-30
    assert scaled[-1] < 1
    neighbours = torch.rand(100_000).sort().values
    assert (processor(InferenceBatch(pred_score=neighbours)).pred_score.diff() >= 0).all()
    assert processor(InferenceBatch(pred_score=torch.tensor([0.05]))).pred_score.item() == 0.5


def test_sensitivity_moves_the_limit_alike_with_and_without_normalization() -> None:
    for normalize in (True, False):
        processor = ExactPostProcessor(normalize, image_sensitivity=0.2, image_threshold=0.1, pixel_threshold=0.1)
        result = processor(InferenceBatch(pred_score=torch.tensor([0.39, 0.41])))
        assert result.pred_label.tolist() == [False, True]
        if normalize:
            assert result.pred_score[0] < 0.8 < result.pred_score[1]
        else:
            assert result.pred_score.tolist() == pytest.approx([0.39, 0.41])


def test_batches_and_exports_are_judged_alike() -> None:
    processor = ExactPostProcessor(image_threshold=0.1, pixel_threshold=0.3)
    whole, maps = torch.rand(5), torch.rand(5, 6, 6)
    judged = batch(whole.tolist(), maps=maps.clone())
    processor.post_process_batch(judged)
    exported = processor(InferenceBatch(pred_score=whole, anomaly_map=maps))
    for name in ("pred_score", "pred_label", "anomaly_map", "pred_mask"):
        assert torch.equal(getattr(judged, name), getattr(exported, name)), name


@pytest.mark.parametrize("exported", [False, True])
def test_without_a_threshold_nothing_is_called_good(exported: bool) -> None:
    """A graph has no branch for it, and anomalib names its outputs by those of the eager call: both are the same."""
    processor = ExactPostProcessor().eval()
    raw = InferenceBatch(pred_score=torch.tensor([[0.3]]), anomaly_map=torch.rand(1, 1, 4, 4))
    result = torch.export.export(processor, (raw,)).module()(raw) if exported else processor(raw)
    assert result.pred_score.item() == pytest.approx(0.3)
    assert bool(result.pred_label.all())
    assert bool(result.pred_mask.all())


def test_a_prediction_without_score_and_map_is_refused() -> None:
    with pytest.raises(ValueError, match="At least one of"):
        ExactPostProcessor()(InferenceBatch())


@pytest.mark.parametrize("exported", [False, True])
def test_a_score_that_is_no_number_is_never_good(exported: bool) -> None:
    processor = ExactPostProcessor(image_threshold=0.5, pixel_threshold=0.5).eval()
    nan = float("nan")
    raw = InferenceBatch(
        pred_score=torch.tensor([[nan], [0.1], [float("inf")]]), anomaly_map=torch.full((3, 1, 2, 2), nan)
    )
    result = torch.export.export(processor, (raw,)).module()(raw) if exported else processor(raw)
    assert result.pred_label.flatten().tolist() == [True, False, True]
    assert result.pred_score[0].isnan()
    assert result.pred_mask.all()


def test_memory_does_not_grow_with_the_validation_set() -> None:
    processor = ExactPostProcessor()
    histograms = (processor._images, processor._pixels, processor._maxima)
    for histogram in histograms:
        histogram.capacity = 20
    for _ in range(5):
        processor.on_validation_batch_end(None, None, batch([0.1, 0.9], [False, True], torch.rand(2, 4, 4)))
    assert max(len(histogram.keys) for histogram in histograms) <= 20


@pytest.mark.parametrize(("number", "above"), [(59, 0), (92, 0), (93, 1), (124, 2)])
def test_a_promise_takes_an_order_statistic(number: int, above: int) -> None:
    """At most 5 % of false alarms: 0 of 59, 1 of 93, 2 of 124 good parts above the threshold (Wilks)."""
    scores = torch.arange(1, number + 1) / 1000
    threshold = good_threshold(scores[torch.randperm(number)], Promise(0.05))
    assert int((scores > threshold).sum()) == above
    assert (scores - threshold).abs().min() > 1e-5


def test_a_promise_that_cannot_be_kept_is_refused() -> None:
    processor = ExactPostProcessor()
    processor.on_validation_batch_end(None, None, batch([0.1] * 58, [False] * 58))
    with pytest.raises(ValueError, match=r"takes 59 good parts, there are 58: 1 more are missing"):
        processor.fit_thresholds(Promise(0.05))
    assert processor.image_threshold.isnan()
    assert between(0.0, None) > 0


def test_the_calibration_is_told_with_its_bound() -> None:
    processor = fit(ExactPostProcessor(), batch([0.1] * 20, [False] * 20))
    told = "Good images above the threshold of 0.1001: 0 of 20 (0 %; at most 13.9 % with 95 % confidence)."
    assert processor.calibration() == told
    processor.set_thresholds(image=0.05)
    assert "20 of 20" in processor.calibration()


def test_images_behind_a_threshold_are_known() -> None:
    processor = fit(ExactPostProcessor(), batch([0.1, 0.2], [False, False]))
    processor.know(["b", "a"])
    processor.know(["a", "c"])
    restored = ExactPostProcessor()
    restored.load_checkpoint_config(processor.checkpoint_config())
    assert restored.known_images == ["a", "b", "c"]
    assert restored.normal_scores == processor.normal_scores


def test_the_zone_of_doubt_shrinks_with_what_is_known() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.exp(0.2 * torch.randn(200, generator=generator))
    zones = [look_zone(scores[:number], 2.0) for number in (3, 10, 50, 200)]
    ratios = [zone.upper / zone.lower for zone in zones]
    assert ratios == sorted(ratios, reverse=True)
    assert all(zone.lower < 2 < zone.upper for zone in zones)
    assert ratios[-1] < 1.15
    wide = look_zone(scores[:10] ** 3, 2.0)  # three times the spread of the logarithms
    assert np.log(wide.upper / wide.lower) == pytest.approx(3 * np.log(ratios[1]), rel=1e-4)
    assert look_zone(scores[:1], 2.0) is None


def test_the_zone_of_doubt_holds_the_quantile_as_often_as_stated() -> None:
    """Each end of the interval of the 95 % quantile is missed in 5 % of all draws."""
    generator = torch.Generator().manual_seed(0)
    missed = torch.zeros(2)
    for _ in range(1000):
        logs = torch.randn(8, generator=generator)
        center = float(torch.exp(logs.mean() + 1.6449 * logs.std()))
        zone = look_zone(logs.exp(), center)
        missed += torch.tensor([float(zone.lower > np.exp(1.6449)), float(zone.upper < np.exp(1.6449))])
    assert (missed / 1000).tolist() == pytest.approx([0.05, 0.05], abs=0.02)


def test_validation_keeps_what_was_given() -> None:
    processor = fit(ExactPostProcessor(pixel_threshold=0.7), batch([0.1, 0.2, 0.3], [False, False, True]))
    assert processor.image_threshold.item() == pytest.approx(0.25)
    assert processor.pixel_threshold.item() == pytest.approx(0.7)


def test_what_is_given_beats_a_checkpoint() -> None:
    saved = ExactPostProcessor(image_sensitivity=0.3, image_threshold=0.1, pixel_threshold=0.2)
    given = ExactPostProcessor(image_sensitivity=0.4, pixel_threshold=0.6)
    given.load_state_dict(saved.state_dict())
    given.load_checkpoint_config(saved.checkpoint_config())
    assert given.image_sensitivity == 0.4
    assert given.image_threshold.item() == pytest.approx(0.1)
    assert given.pixel_threshold.item() == pytest.approx(0.6)
    plain = ExactPostProcessor()
    plain.load_checkpoint_config(saved.checkpoint_config())
    assert plain.image_sensitivity == 0.3


def test_anomalibs_own_is_taken_over_with_its_settings() -> None:
    model = make_model(post_processor=PostProcessor(image_sensitivity=0.2, enable_normalization=False))
    assert isinstance(model.post_processor, ExactPostProcessor)
    model.post_processor.load_checkpoint_config({"image_sensitivity": 0.5, "enable_normalization": True})
    assert model.post_processor.image_sensitivity == 0.2
    assert not model.post_processor.enable_normalization
    assert isinstance(AnoPLe.configure_post_processor(), ExactPostProcessor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_sensitivity": 1.0}, r"image_sensitivity must be in \(0, 1\), got 1.0"),
        ({"pixel_threshold": -1.0}, "must be a positive number, 1.2e-38 or more, got -1.0"),
        ({"image_threshold": 0.0}, "or more, got 0.0"),
        ({"image_threshold": 1e-300}, "or more, got 1e-300"),
        ({"image_threshold": 1e300}, "or more, got 1e.300"),
        ({"image_threshold": float("nan")}, "or more, got nan"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExactPostProcessor(**arguments)


def test_labels_that_are_there_are_kept() -> None:
    judged = batch([0.3])
    judged.pred_label = torch.tensor([True])
    ExactPostProcessor(image_threshold=0.5, pixel_threshold=0.5).post_process_batch(judged)
    assert judged.pred_label.tolist() == [True]
    assert judged.pred_score.item() == pytest.approx(0.375)
