# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Losses, equations (7) to (11), by hand."""

from math import exp, log
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anople_anomalib.config import ALIGNMENTS
from anople_anomalib.method.decoder import LocalFeatures
from anople_anomalib.method.loss import AnoPLeLoss, alignment_loss, dice_loss, image_loss, pixel_loss

V, D, H, W = 3, 8, 4, 6


def masks_of(*anomalous: int) -> torch.Tensor:
    """Masks of V views, of which some have an anomaly."""
    masks = torch.zeros(V, H, W, dtype=torch.long)
    for view in anomalous:
        masks[view, 1:3, 2 : 4 + view] = 1
    return masks


def cross_entropy(logits: torch.Tensor, targets: tuple[float, float]) -> float:
    normal, abnormal = logits.tolist()
    total = log(exp(normal) + exp(abnormal))
    return targets[0] * (total - normal) + targets[1] * (total - abnormal)


def dice_by_hand(probabilities: torch.Tensor, masks: torch.Tensor) -> float:
    losses = []
    for p, m in zip(probabilities.flatten(1).tolist(), masks.flatten(1).tolist(), strict=True):
        overlap = sum(a * b for a, b in zip(p, m, strict=True))
        losses.append(1 - (2 * overlap + 1) / (sum(p) + sum(m) + 1))
    return sum(losses) / len(losses)


def test_dice_of_every_view() -> None:
    probabilities, masks = torch.rand(V, H, W), masks_of(0, 2)
    assert_close(dice_loss(probabilities, masks).item(), dice_by_hand(probabilities, masks), rtol=1e-5, atol=0)


def test_dice_knows_its_best_and_its_worst() -> None:
    masks = masks_of(0, 1)
    assert dice_loss(masks.float(), masks).item() == 0
    assert dice_loss(1 - masks.float(), masks) > 0.9


def test_pixel_loss_is_dice_and_focal() -> None:
    """Equation (7)."""
    logits, masks = 2 * torch.randn(V, 2, H, W), masks_of(1)
    focal, probabilities = [], torch.empty(V, H, W)
    for v in range(V):
        for i in range(H):
            for j in range(W):
                probabilities[v, i, j] = 1 / (1 + exp(logits[v, 0, i, j] - logits[v, 1, i, j]))
                p_true = probabilities[v, i, j] if masks[v, i, j] else 1 - probabilities[v, i, j]
                focal.append(-((1 - p_true) ** 2) * log(p_true))
    expected = dice_by_hand(probabilities, masks) + sum(focal) / len(focal)
    assert_close(pixel_loss(logits, masks), expected, rtol=1e-4, atol=1e-6)


def test_image_loss_of_pixel_anomalies() -> None:
    """First term of equation (9)."""
    logits, labels = torch.randn(V, 2), torch.tensor([0, 1, 0])
    expected = [cross_entropy(row, (1 - label, label)) for row, label in zip(logits, labels.tolist(), strict=True)]
    assert_close(image_loss(logits, labels).item(), sum(expected) / V)


def test_image_loss_of_latent_anomalies() -> None:
    """Second term of equation (9): normal views against their latent anomalies, whose labels are smoothed by 0.003."""
    logits, labels, latent = torch.randn(V, 2), torch.tensor([0, 1, 0]), torch.randn(2, 2)
    terms = [cross_entropy(logits[0], (1, 0)), cross_entropy(logits[2], (1, 0))]
    terms += [cross_entropy(row, (0.0015, 0.9985)) for row in latent]
    expected = image_loss(logits, labels).item() + sum(terms) / 4
    assert_close(image_loss(logits, labels, latent).item(), expected)


@pytest.mark.parametrize("latent", [None, torch.empty(0, 2)], ids=["none", "empty"])
def test_without_a_normal_view_there_is_no_latent_term(latent: torch.Tensor | None) -> None:
    logits, labels = torch.randn(V, 2, requires_grad=True), torch.ones(V, dtype=torch.long)
    loss = image_loss(logits, labels, latent)
    loss.backward()
    assert_close(loss, F.cross_entropy(logits, labels))
    assert logits.grad.isfinite().all()


def weight(abnormal: float, alignment: str) -> float:
    """Weight of a pixel before all weights of a view are divided by their sum."""
    return exp(abnormal / 2) if alignment == "weighted_sum" else 1.0


@pytest.mark.parametrize("alignment", ["weighted_sum", "mean"])
def test_alignment_with_the_pixels(alignment: str) -> None:
    """Equation (10): s is the weighted sum over the pixels, by a softmax of temperature 2."""
    embeddings = F.normalize(torch.randn(V, D), dim=1)
    local, logits = torch.randn(V, D, H, W), 5 * torch.randn(V, 2, H, W)
    expected = 0.0
    for v in range(V):
        raw = [weight(logits[v, 1, i, j].item(), alignment) for i in range(H) for j in range(W)]
        weights = torch.tensor(raw).div(sum(raw)).view(H, W)
        s = sum(weights[i, j] * local[v, :, i, j] for i in range(H) for j in range(W))
        expected += (1 - embeddings[v] @ s / s.norm()).item() / V
    assert_close(
        alignment_loss(embeddings, LocalFeatures.of(local), logits, alignment).item(), expected, rtol=1e-4, atol=1e-5
    )


def test_aligned_semantics_cost_nothing_and_opposite_ones_two() -> None:
    embeddings = F.normalize(torch.randn(V, D), dim=1)
    local = LocalFeatures.of(3 * embeddings[:, :, None, None].expand(-1, -1, H, W))
    logits = torch.randn(V, 2, H, W)
    assert_close(alignment_loss(embeddings, local, logits), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert_close(alignment_loss(-embeddings, local, logits), torch.tensor(2.0))


def inputs(*anomalous: int) -> dict[str, Any]:
    masks = masks_of(*anomalous)
    normal = V - len(anomalous)
    return {
        "masks": masks,
        "image_embeddings": F.normalize(torch.randn(V, D), dim=1).requires_grad_(),
        "image_logits": torch.randn(V, 2, requires_grad=True),
        "latent_logits": torch.randn(normal, 2, requires_grad=True),
        "local_features": LocalFeatures.of(torch.randn(V, D, 2, 3, requires_grad=True)),
        "pixel_logits": torch.randn(V, 2, 2, 3, requires_grad=True),
    }


def test_terms_of_the_final_loss() -> None:
    """Equation (11); pixel logits are resized to the masks, labels are those of each view's own mask."""
    given = inputs(1)
    losses = AnoPLeLoss()(**given)
    assert set(losses) == {"image_loss", "pixel_loss", "align_loss"}
    labels = torch.tensor([0, 1, 0])
    assert_close(losses["image_loss"], image_loss(given["image_logits"], labels, given["latent_logits"]))
    upsampled = F.interpolate(given["pixel_logits"], size=(H, W), mode="bilinear", align_corners=False)
    assert_close(losses["pixel_loss"], pixel_loss(upsampled, given["masks"]))
    expected = alignment_loss(given["image_embeddings"], given["local_features"], given["pixel_logits"])
    assert_close(losses["align_loss"], expected)


@pytest.mark.parametrize("anomalous", [(), (0,), (0, 1, 2)], ids=["clean", "one", "no_normal_view"])
@pytest.mark.parametrize("scale", [1, 100])
def test_every_gradient_is_finite(anomalous: tuple[int, ...], scale: float) -> None:
    given = inputs(*anomalous)
    scaled = given | {name: scale * given[name] for name in ("image_logits", "latent_logits", "pixel_logits")}
    sum(AnoPLeLoss()(**scaled).values()).backward()
    tensors = given | {"local_features": given["local_features"].hidden}
    for name in set(given) - {"masks"}:
        assert tensors[name].grad is None or tensors[name].grad.isfinite().all(), name
    for name in ("image_embeddings", "image_logits", "local_features", "pixel_logits"):
        assert tensors[name].grad.abs().sum() > 0, name


def test_a_loss_falls_when_the_prediction_is_right() -> None:
    masks = masks_of(1)
    right = torch.stack([1 - masks, masks], dim=1).float()
    assert pixel_loss(10 * right, masks) < 0.05 < pixel_loss(-10 * right, masks)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_alignment_is_chosen(alignment: str) -> None:
    given = inputs(1)
    losses = AnoPLeLoss(alignment)(**given)
    if alignment == "none":
        assert set(losses) == {"image_loss", "pixel_loss"}
    else:
        arguments = given["image_embeddings"], given["local_features"], given["pixel_logits"]
        assert_close(losses["align_loss"], alignment_loss(*arguments, alignment))


def test_only_the_image_loss_without_a_decoder() -> None:
    given = inputs(1) | {"local_features": None, "pixel_logits": None}
    assert set(AnoPLeLoss()(**given)) == {"image_loss"}
