# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The measures of a collapsed training step, and the warning of a collapsed run."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anople_anomalib.method.decoder import LocalFeatures
from anople_anomalib.method.torch_model import TrainingOutput
from anople_anomalib.training.collapse_monitor import CollapseWarning, measure_soundness
from helpers.training import make_datamodule, make_engine, make_model

LOGGER = "anople_anomalib.training.collapse_monitor"


def warnings_of(
    caplog: pytest.LogCaptureFixture,
    epochs: list[dict[str, float]],
    callback: CollapseWarning | None = None,
    simulator: object = "any",
) -> list[str]:
    """Messages after a run whose epochs have logged these values."""
    callback = callback or CollapseWarning()
    trainer: Any = SimpleNamespace(is_global_zero=True, callback_metrics={})
    pl_module: Any = SimpleNamespace(simulator=simulator)
    callback.on_train_start(trainer, pl_module)
    for epoch in epochs:
        trainer.callback_metrics = {f"train_{name}": torch.tensor(value) for name, value in epoch.items()}
        callback.on_train_epoch_end(trainer, pl_module)
    caplog.clear()
    with caplog.at_level(logging.WARNING, LOGGER):
        callback.on_train_end(trainer, pl_module)
    return [record.getMessage() for record in caplog.records]


SOUND, SAME_TEXTS, FLAT = (
    {"text_cosine": 0.9, "map_spread": 0.8},
    {"text_cosine": 0.998, "map_spread": 0.8},
    {"text_cosine": 0.9, "map_spread": 0.03},
)


def test_collapsed_texts_are_named(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of(caplog, [SOUND, SAME_TEXTS])
    assert "the texts of both states have become the same (cosine 0.998)" in message
    assert "\n" not in message
    assert (Path(__file__).parents[3] / "docs" / "training.md").is_file()  # which the message names


def test_a_constant_decoder_is_named(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of(caplog, [SOUND] + [FLAT] * 10)
    assert "the decoder gives every pixel the same value (range 0.030)" in message


def test_both_make_one_line(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of(caplog, [SAME_TEXTS | {"map_spread": 0.0}])
    assert "cosine" in message
    assert "range" in message


@pytest.mark.parametrize(
    "epochs",
    [[], [SOUND], [SAME_TEXTS, SOUND], [FLAT] * 5 + [SOUND] + [FLAT] * 9, [{"text_cosine": 0.9}]],
    ids=["no_epoch", "sound", "recovered", "undamaged_by_chance", "no_decoder"],
)
def test_silence(caplog: pytest.LogCaptureFixture, epochs: list[dict[str, float]]) -> None:
    assert not warnings_of(caplog, epochs)


def test_without_simulated_anomalies_a_constant_map_is_right(caplog: pytest.LogCaptureFixture) -> None:
    assert not warnings_of(caplog, [FLAT] * 10, simulator=None)


def test_a_second_run_starts_anew(caplog: pytest.LogCaptureFixture) -> None:
    callback = CollapseWarning()
    assert warnings_of(caplog, [SAME_TEXTS], callback)
    assert not warnings_of(caplog, [SOUND], callback)
    assert not warnings_of(caplog, [], callback)


def test_a_training_run_logs_both_numbers_and_warns(
    mvtec: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, model = make_engine(tmp_path, limit_val_batches=0), make_model(epochs=2)
    encode = model.model.encode_texts
    monkeypatch.setattr(model.model, "encode_texts", lambda prompts: encode(prompts)[:1].expand(2, -1))  # w+ = w-
    with caplog.at_level(logging.WARNING, LOGGER):
        engine.fit(model, datamodule=make_datamodule(mvtec))
    assert float(engine.trainer.logged_metrics["train_text_cosine"]) == pytest.approx(1.0)
    assert float(engine.trainer.logged_metrics["train_map_spread"]) == pytest.approx(0.0, abs=1e-6)
    (message,) = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert "have become the same" in message
    assert "the same value" in message


V, D, H, W = 5, 8, 3, 4


def output_of(texts: torch.Tensor, pixel_logits: torch.Tensor | None) -> TrainingOutput:
    return TrainingOutput(
        image_embeddings=torch.zeros(V, D),
        image_logits=torch.zeros(V, 2),
        local_features=None if pixel_logits is None else LocalFeatures.of(torch.zeros(V, D, H, W)),
        pixel_logits=pixel_logits,
        latent_logits=None,
        text_features=texts,
    )


def test_numbers_by_hand() -> None:
    texts, logits = F.normalize(torch.randn(2, D), dim=1), torch.randn(V, 2, H, W, requires_grad=True)
    numbers = measure_soundness(output_of(texts, logits))
    assert_close(numbers["text_cosine"], sum(a * b for a, b in zip(*texts, strict=True)))
    m_hat = [1 / (1 + (normal - abnormal).exp().item()) for view in logits for normal, abnormal in view.flatten(1).T]
    assert_close(numbers["map_spread"].item(), max(m_hat) - min(m_hat))
    assert not numbers["map_spread"].requires_grad


def test_collapse_is_one_and_zero() -> None:
    texts = F.normalize(torch.randn(1, D), dim=1).expand(2, -1)
    numbers = measure_soundness(output_of(texts, torch.randn(2)[None, :, None, None].expand(V, 2, H, W)))
    assert_close(numbers, {"text_cosine": torch.tensor(1.0), "map_spread": torch.tensor(0.0)})


def test_without_a_decoder_there_is_no_map() -> None:
    assert set(measure_soundness(output_of(torch.eye(2, D), None))) == {"text_cosine"}
