# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Whatever is done to the memory of the prompted CLIP is done to the second memory, too."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.testing import assert_close

from anople_anomalib.anople import AnoPLe
from anople_anomalib.backbones.outputs import ShotFeatures
from anople_anomalib.backbones.package_weights import LITE0
from anople_anomalib.method.fusion import WeightedFusion, Weights
from anople_anomalib.tiles.large_images import LargeImages
from anople_anomalib.tiles.tiling import Tiling
from anople_anomalib.training import hooks
from anople_anomalib.training.memory import ShotMemory
from helpers.miniature import NUM_PATCHES
from helpers.training import make_datamodule, make_engine, make_model, train_model

SMALL = {"backbone": LITE0, "image_size": 96, "turns": "none", "subspace": 0.95, "fusion": "weighted"}
SECOND = {"memory": SMALL}
PLACES = 12 * 12
"""Of the second backbone: stride 8."""


TURNED = {"memory": {**SMALL, "turns": "right_angles"}}
"""All eight rotations and reflections of a shot are in its memory, of the turned ones a quarter of the patches."""
TURNED_PLACES = PLACES + 7 * (PLACES // 4)


def distances(model: AnoPLe, image: torch.Tensor) -> list[float]:
    """The largest distance to either memory."""
    visual = model.model.encode_whole(model.pre_processor.transform(image))
    return [model.model.first_memory_map(visual).max().item(), model.model.second_memory_map(visual).max().item()]


@pytest.fixture(scope="module")
def checkpoint(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a finished training run of one epoch."""
    engine = make_engine(tmp_path_factory.mktemp("training"))
    engine.fit(make_model(epochs=1, **SECOND), datamodule=make_datamodule(root))
    return Path(engine.best_model_path)


@pytest.fixture
def model(checkpoint: Path) -> AnoPLe:
    """The trained model."""
    return AnoPLe.load_from_checkpoint(checkpoint, visualizer=False).eval()


def test_an_added_part_is_normal_to_both(model: AnoPLe, tmp_path: Path) -> None:
    new = torch.rand(1, 3, 96, 96)
    assert min(distances(model, new)) > 1e-2
    model.extend_memory_bank(new)
    assert max(distances(model, new)) < 1e-3
    assert len(model.model.memory_bank) == 2 * NUM_PATCHES
    assert len(model.model.second_memory.memory_bank) == 2 * PLACES
    model.save_checkpoint(tmp_path / "grown.ckpt")
    restored = AnoPLe.load_from_checkpoint(tmp_path / "grown.ckpt", visualizer=False).eval()
    other = torch.rand(1, 3, 70, 80)
    assert torch.equal(restored(other).pred_score, model(other).pred_score)


def test_an_added_part_is_remembered_in_every_turn(root: Path, tmp_path: Path) -> None:
    model = train_model(root, tmp_path, **TURNED).eval()
    new = torch.rand(1, 3, 96, 96)
    model.extend_memory_bank(new)
    assert len(model.model.second_memory.memory_bank) == PLACES + TURNED_PLACES
    assert distances(model, new)[1] < 3e-3
    model.save_checkpoint(tmp_path / "grown.ckpt")
    restored = AnoPLe.load_from_checkpoint(tmp_path / "grown.ckpt", visualizer=False).eval()
    assert torch.equal(restored(new).pred_score, model(new).pred_score)


def test_thresholds_are_just_above_the_scores_of_both_together(model: AnoPLe) -> None:
    images = torch.rand(2, 3, 96, 96)
    scores = torch.cat([model.model(model.pre_processor.transform(image[None])).pred_score for image in images])
    model.recompute_thresholds(images)
    assert_close(model.post_processor.image_threshold, 1.001 * scores.max())


@pytest.mark.parametrize(("arguments", "limit"), [(SECOND, 1e-3), (TURNED, 1.0)], ids=["upright", "turned"])
def test_a_resumed_run_ends_with_both_memories(
    checkpoint: Path, root: Path, tmp_path: Path, arguments: dict[str, Any], limit: float
) -> None:
    model = make_model(**arguments)
    make_engine(tmp_path, max_epochs=2).fit(model, datamodule=make_datamodule(root), ckpt_path=checkpoint)
    assert len(model.model.second_memory.memory_bank) == PLACES
    datamodule = make_datamodule(root)
    datamodule.setup()
    [name] = model.drawn_samples["bottle"]
    [shot] = [item.image for item in datamodule.train_data if str(item.image_path).endswith(f"/{name}")]
    clip, second = distances(model.eval(), shot[None])
    assert clip < 1e-3
    assert second < limit  # of the patches of all copies some are drawn


def test_a_coreset_keeps_its_share_of_both_and_of_all_turns(root: Path, tmp_path: Path) -> None:
    model = train_model(root, tmp_path, coreset_ratio=0.25, **TURNED)
    assert len(model.model.memory_bank) == NUM_PATCHES // 4
    assert len(model.model.second_memory.memory_bank) == TURNED_PLACES // 4
    assert model(torch.rand(1, 3, 96, 96)).pred_score.isfinite().all()


@torch.no_grad()
def test_clip_does_not_run_where_it_has_no_weight(model: AnoPLe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second memory alone gives, bit for bit, the scores of the whole with weights of 0, in tiles as well."""
    whole, fusion = model.model, model.model.fusion
    assert isinstance(fusion, WeightedFusion)
    fusion.set_weights(Weights(0.0, 0.0, 0.0))
    for parts in (whole, LargeImages(whole)):
        if parts is not whole:
            parts.set_tiling(Tiling(1, 2))
        images = torch.randn(2, 3, *parts.input_size)
        for bank, rows in ((parts.memory_bank, "first"), (parts.second_memory.memory_bank, "second")):
            bank.build(getattr(parts.shot_features(images + 1), rows))
        monkeypatch.setattr(fusion, "memory_alone", False)
        expected = parts(images)
        restored = AnoPLe(**model.hparams, visualizer=False).eval().model
        restored = restored if parts is whole else LargeImages(restored)
        restored.load_state_dict(parts.state_dict())
        monkeypatch.setattr(restored.clip.visual, "forward", lambda *_args: pytest.fail("CLIP runs for nothing"))
        found = restored(images)
        assert torch.equal(found.pred_score, expected.pred_score)
        assert torch.equal(found.anomaly_map, expected.anomaly_map)


class NoGain(ShotMemory):
    """Prompts and decoder add as much as is asked for."""

    gains: ClassVar[list[float]] = []

    def fill(self) -> ShotFeatures:
        """Fill the memories, and put down the next gain."""
        features, self.gain = super().fill(), NoGain.gains.pop(0)
        return features


@pytest.mark.parametrize(
    ("gains", "epochs", "sentence"),
    [
        ([0.0], 1, "Teaching ended after 1 epoch: on simulated defects of the shots, prompts and decoder add nothing"),
        ([0.2, 0.2], 2, "Teaching ended after 2 epochs: on simulated defects of the shots, more of it adds nothing."),
        ([0.2, 0.4, 0.4], 3, ""),
    ],
)
def test_teaching_ends_where_it_adds_nothing(
    gains: list[float],
    epochs: int,
    sentence: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(hooks, "ShotMemory", NoGain)
    monkeypatch.setattr(NoGain, "gains", gains)
    model, engine = make_model(epochs=3, stop_early=True, **SECOND), make_engine(tmp_path)
    with caplog.at_level("INFO", logger="anople_anomalib"):
        engine.fit(model, datamodule=make_datamodule(root))
    assert not gains, "the memories are filled once more than needed"
    assert model.trainer.global_step == epochs
    assert model.teaching.startswith(sentence)
    assert bool(sentence) == ("Teaching ended" in caplog.text)
    assert model.is_finalized
    restored = AnoPLe.load_from_checkpoint(engine.best_model_path, visualizer=False)
    assert restored.teaching == model.teaching


def test_only_a_weighted_fusion_can_end_teaching() -> None:
    with pytest.raises(ValueError, match=r"stop_early weighs the parts: leave it out, or give memory\.fusion weighted"):
        make_model(stop_early=True)
    model = AnoPLe("offline", memory={"fusion": "paper", "backbone": "none"}, visualizer=False)
    assert model.hparams["training"]["stop_early"] is False
