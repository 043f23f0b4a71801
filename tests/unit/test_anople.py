# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The Lightning model: its arguments, its training step, its state."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
import pytest
import torch
import yaml
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.models.components import AnomalibModule
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms.v2.functional import normalize

from anople_anomalib.anople import AnoPLe
from anople_anomalib.backbones.clip_loading import CLIP_MEAN, CLIP_STD
from anople_anomalib.config import ALIGNMENTS, COUPLINGS
from anople_anomalib.method.anomaly_simulation import PixelAnomalySimulator
from anople_anomalib.training.shots import LoadedShots
from anople_anomalib.training.steps import EvaluationPreProcessing
from helpers.miniature import DEPTH, IMAGE_SIZE
from helpers.training import make_model


def ready(**arguments: Any) -> AnoPLe:
    """A model that knows its classes, outside a trainer."""
    model = make_model(**arguments)
    model.prepare_texts(model.hparams["class_names"] or "object")
    return model


def batch_of(number: int = 1) -> ImageBatch:
    return ImageBatch(image=torch.rand(number, 3, 2 * IMAGE_SIZE[0], 2 * IMAGE_SIZE[1]))


def step(model: AnoPLe) -> tuple[float, list[torch.Tensor], int]:
    """Loss and gradients of one training step, and the size of what it keeps for its backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)
    batch = batch_of()
    with patch.object(AnoPLe, "log_dict"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.training_step(batch, 0)
    loss.backward()
    learned = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return loss.item(), learned, sum(kept.values())


def test_gradient_checkpointing_keeps_less_and_changes_nothing() -> None:
    loss, gradients, size = step(ready())
    other_loss, other_gradients, other_size = step(ready(gradient_checkpointing=True))
    assert other_loss == loss
    for gradient, other in zip(gradients, other_gradients, strict=True):
        assert_close(other, gradient)
    assert other_size < 0.7 * size


def test_anomalib_finds_and_trains_it() -> None:
    assert AnoPLe in AnomalibModule.__subclasses__()
    assert make_model().learning_type is LearningType.ONE_CLASS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k_shot": 0}, "k_shot must be an integer, 1 or more, or None for all images, got 0"),
        ({"k_shot": True}, "k_shot must be an integer, 1 or more, or None for all images, got True"),
        ({"k_shot": 1.5}, "k_shot must be an integer, 1 or more, or None for all images, got 1.5"),
        ({"seed": "a"}, "seed must be an integer, 0 or more, got 'a'"),
        ({"class_names": ""}, "class_names must be one or more non-empty names, got ''"),
        ({"class_names": []}, r"class_names must be one or more non-empty names, got \[\]"),
        ({"class_names": [1]}, r"class_names must be one or more non-empty names, got \[1\]"),
        ({"class_names": 3}, "class_names must be one or more non-empty names, got 3"),
        ({"alignment": "sum"}, "training.alignment must be one of"),
        ({"coupling": "both"}, "prompts.coupling must be one of"),
        ({"depth": 4}, "prompts.depth must be between 1 and 3, .*, got 4"),
        ({"layers": [4]}, r"memory.layers must be numbers between 1 and 3, .*, got \[4\]"),
        ({"backbone": "ViT"}, "backbone must be"),
        ({"backbone": "hf-hub:somebody/something"}, "backbone must be .*, got 'hf-hub:somebody/something'"),
        ({"pretrained": "best"}, "pretrained must be a tag"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(**arguments)


def test_texts_that_leave_no_room_for_the_prompts_are_refused_before_training() -> None:
    model = make_model(text_context_length=40, visual_context_length=34)
    with pytest.raises(ValueError, match=r"A text of 4 tokens and 74 prompts exceed .* context length of 77"):
        model.prepare_texts("bottle")


def test_a_misspelled_argument_is_an_error() -> None:
    with pytest.raises(TypeError, match="k_shots"):
        AnoPLe(k_shots=2)


def test_a_missing_anomaly_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="or a folder with images, found none"):
        make_model(anomaly_source=str(tmp_path)).simulator.find_textures()


def test_layer_numbers_are_scaled_to_the_backbone() -> None:
    model = make_model()
    assert model.model.prompt_learner.text_prompts.shape[0] == DEPTH
    assert model.model.memory_layers == (2, 3)


@pytest.mark.parametrize(
    ("decoder", "has_decoder", "is_residual", "logits"),
    [("plain", True, False, "dot"), ("residual", True, True, "dot"), ("none", False, False, "cosine")],
)
def test_decoders(decoder: str, has_decoder: bool, is_residual: bool, logits: str) -> None:
    model = make_model(decoder=decoder).model
    assert (model.decoder is not None, model.residual_decoder, model.pixel_logits) == (has_decoder, is_residual, logits)


def test_texts_of_the_classes() -> None:
    model = make_model(state_word=["damaged", "broken"])
    model.prepare_texts(["metal_nut", "bottle"])
    assert model.class_names == ["metal nut", "bottle"]
    tokens, normal = model.model.tokens, model.model.num_normal_texts
    assert torch.equal(tokens[:normal], open_clip.tokenize(["metal nut", "bottle"]))
    abnormal = ["damaged metal nut", "broken metal nut", "damaged bottle", "broken bottle"]
    assert {tuple(row) for row in tokens[normal:].tolist()} == {
        tuple(row) for row in open_clip.tokenize(abnormal).tolist()
    }


def test_views_are_damaged_cut_and_normalized() -> None:
    model, images = ready(paired_anomalies=False), torch.rand(2, 3, 128, 128)
    masks = torch.zeros(2, 1, 128, 128)
    masks[0, 0, 70, 3] = 1  # one pixel, in the lower left crop of the first image
    model.simulator.forward = lambda given: (given * (1 - masks), masks)
    views, cut = model.simulated_views(images)
    assert views.shape == (2, 5, 3, *IMAGE_SIZE)
    assert cut.shape == (10, *IMAGE_SIZE)
    assert cut.flatten(1).amax(dim=1).tolist() == [0, 0, 1, 0, 1] + 5 * [0]
    expected = normalize(images[1, :, 64:, :64], list(CLIP_MEAN), list(CLIP_STD))
    assert_close(views[1, 2], expected)
    assert_close(views[0, 2, :, 6, 3], -torch.tensor(CLIP_MEAN) / torch.tensor(CLIP_STD))


def test_simulation_happens_before_normalization_at_twice_the_size() -> None:
    model, seen = ready(), []
    model.simulator.register_forward_hook(lambda _module, args, _output: seen.append(args[0]))
    model.simulated_views(torch.rand(1, 3, 50, 70))
    assert seen[0].shape == (1, 3, 128, 128)
    assert 0 <= seen[0].min() <= seen[0].max() <= 1


def test_without_pixel_anomalies_images_stay_as_they_are() -> None:
    model, images = ready(pixel_anomalies=False), torch.rand(2, 3, 128, 128)
    views, masks = model.simulated_views(images)
    assert model.simulator is None
    assert not masks.any()
    assert_close(views[1, 0], normalize(images[1, :, :64, :64], list(CLIP_MEAN), list(CLIP_STD)))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        *({"coupling": coupling} for coupling in COUPLINGS),
        *({"alignment": alignment} for alignment in ALIGNMENTS),
        {"multi_view": False},
        {"view_signal": False},
        {"multi_view": False, "view_signal": False},
        {"pixel_anomalies": False},
        {"latent_anomalies": False},
        {"pixel_anomalies": False, "latent_anomalies": False},
        {"enabled": False},
        {"decoder": "none", "coupling": "text_to_image"},
        {"text_context_length": 5, "visual_context_length": 8},
        {"text_context_length": 0, "visual_context_length": 0},
        {"depth": 1},
        {"state_word": "compositional", "class_names": ["bottle", "metal_nut"]},
    ],
    ids=str,
)
def test_every_row_of_the_ablations_trains_and_predicts(arguments: dict[str, Any]) -> None:
    model = ready(**arguments)
    model.train()
    loss = model.training_step(batch_of(2), 0)
    loss.backward()
    assert loss.isfinite()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.numel()]
    gradients = [parameter.grad for parameter in learned if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    model.shots = LoadedShots([ImageBatch(image=torch.rand(2, 3, *IMAGE_SIZE))])
    model.finalize()
    result = model.eval()(torch.rand(2, 3, *IMAGE_SIZE))
    assert result.pred_score.isfinite().all()
    assert result.anomaly_map.shape == (2, 1, *IMAGE_SIZE)
    assert result.anomaly_map.isfinite().all()


def rows_labeled(label: str) -> list[dict[str, Any]]:
    """Arguments of AnoPLe in the rows of Table 2's configuration that have this label."""
    path = Path(__file__).parents[2] / "configs" / "ablation" / "table_2_prompt_guided.yaml"
    runs = yaml.safe_load(path.read_text(encoding="utf-8"))["fewshot"]["runs"]
    models = [model for run in runs for model in run["model"].get("grid", [run["model"]])]
    return [model["init_args"] for model in models if model.get("label") == label]


def test_the_row_of_maple_has_no_visual_prompts_of_its_own_and_trains() -> None:
    rows = rows_labeled("MaPLe+DRAEM")
    assert len(rows) == 2  # MVTec AD and VisA
    for row in rows:
        model = ready(**row | {"anomaly_source": "noise"})  # no download
        learner = model.model.prompt_learner
        assert learner.visual_prompts.numel() == 0
        assert learner().visual.shape[1] == learner.text_prompts.shape[1] > 0  # projected text prompts alone
        model.train().training_step(batch_of(1), 0).backward()
        assert learner.text_prompts.grad.any()
        model.shots = LoadedShots([ImageBatch(image=torch.rand(1, 3, *IMAGE_SIZE))])
        model.finalize()
        assert model.eval()(torch.rand(1, 3, *IMAGE_SIZE)).anomaly_map.isfinite().all()


def test_the_loss_is_the_sum_of_its_terms() -> None:
    """Equation (11)."""
    model, logged = ready(), {}
    model.log_dict = lambda values, **_kwargs: logged.update(values)
    loss = model.training_step(batch_of(), 0)
    terms = {"train_image_loss", "train_pixel_loss", "train_align_loss"}
    assert set(logged) == {"train_loss", *terms, "train_text_cosine", "train_map_spread"}
    assert_close(logged["train_loss"], loss.detach())
    assert_close(loss.detach(), sum(logged[name] for name in terms))


def test_a_step_runs_each_tower_once_for_all_classes() -> None:
    model, shapes = ready(class_names=["bottle", "cable", "metal_nut"]), {"text": [], "visual": []}
    model.model.clip.text.register_forward_hook(lambda _m, args, _o: shapes["text"].append(len(args[0])))
    model.model.clip.visual.register_forward_hook(lambda _m, args, _o: shapes["visual"].append(len(args[0])))
    model.training_step(batch_of(2), 0)
    assert shapes == {"text": [6], "visual": [20]}  # five views of two images, whole and damaged


def test_pairs_show_an_image_whole_and_damaged() -> None:
    model, images = ready(), torch.rand(2, 3, 128, 128)
    assert model.simulator.generator.probability == 1
    views, masks = model.simulated_views(images)
    masks = masks.unflatten(0, (4, 5))
    assert views.shape == (4, 5, 3, *IMAGE_SIZE)
    assert not masks[:2].any()
    assert masks[2:, 4].flatten(1).any(dim=1).all()
    for whole, damaged, mask in zip(views[:2], views[2:], masks[2:], strict=True):
        crops = slice(0, 4)
        assert_close(
            whole[crops].permute(0, 2, 3, 1)[mask[crops] == 0], damaged[crops].permute(0, 2, 3, 1)[mask[crops] == 0]
        )
        assert not torch.equal(whole[4], damaged[4])


@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), "100", True])
def test_a_wrong_logit_scale_is_refused(scale: object) -> None:
    with pytest.raises(ValueError, match=r"training.image_logit_scale must be a finite number above 0, or 'clip'"):
        make_model(image_logit_scale=scale)


def test_inference_does_not_run_the_text_tower() -> None:
    model, calls = ready(), []
    model.shots = LoadedShots([ImageBatch(image=torch.rand(1, 3, *IMAGE_SIZE))])
    model.finalize()
    model.model.clip.text.register_forward_hook(lambda *_args: calls.append("text"))
    model.model.clip.visual.register_forward_hook(lambda *_args: calls.append("visual"))
    model.eval()(torch.rand(2, 3, *IMAGE_SIZE))
    model.validation_step(batch_of(2), 0)
    assert calls == ["visual", "visual"]


def test_the_pre_processor_leaves_training_batches_alone() -> None:
    model, batch = make_model(), batch_of()
    (callback,) = [c for c in model.configure_callbacks() if isinstance(c, EvaluationPreProcessing)]
    assert not any(callback is model.pre_processor for callback in model.configure_callbacks())
    before = batch.image.clone()
    callback.on_train_batch_start(None, model, batch, 0)
    assert torch.equal(batch.image, before)
    for stage in ("validation", "test", "predict"):
        batch = batch_of()
        getattr(callback, f"on_{stage}_batch_start")(None, model, batch, 0, 0)
        assert batch.image.shape == (1, 3, *IMAGE_SIZE), stage
        assert batch.image.min() < 0, stage


def test_without_a_pre_processor_there_is_no_callback() -> None:
    callbacks = make_model(pre_processor=False).configure_callbacks()
    assert not any(isinstance(callback, EvaluationPreProcessing) for callback in callbacks)


def test_initial_prompts_depend_on_the_training_seed_alone() -> None:
    states = []
    for training_seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        states.append(make_model(training={"seed": training_seed}).model.state_dict())
    first, second, other = states
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["prompt_learner.view_signal"], other["prompt_learner.view_signal"])
    assert not torch.equal(first["decoder.mix.weight"], other["decoder.mix.weight"])


def test_textures_reach_the_simulator(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "texture.png")
    model = make_model(anomaly_source=tmp_path)
    assert isinstance(model.simulator, PixelAnomalySimulator)
    model.simulator.find_textures()
    assert model.simulator.generator.anomaly_source_paths == [tmp_path / "texture.png"]


def test_initial_prompts_do_not_depend_on_the_memory() -> None:
    first = make_model().model.prompt_learner.state_dict()
    second = make_model(memory={"backbone": "resnet18", "pretrained": "random", "image_size": 64})
    assert second.model.second_memory is not None
    other = second.model.prompt_learner.state_dict()
    assert all(torch.equal(first[name], other[name]) for name in first)
