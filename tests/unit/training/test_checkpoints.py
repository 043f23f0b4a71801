# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A checkpoint that does not fit is refused, whichever way it comes, and leaves the model as it was."""

import copy
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.callbacks.model_loader import LoadModelCallback

from anople_anomalib.anople import AnoPLe
from helpers.folders import write_category
from helpers.training import make_datamodule, make_engine, make_model, read

Content = dict[str, Any]
BANK, PROMPTS = "model.memory_bank.features", "model.prompt_learner.text_prompts"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a finished training run."""
    root = tmp_path_factory.mktemp("trained")
    engine = make_engine(root)
    engine.fit(make_model(epochs=1), datamodule=make_datamodule(write_category(root / "data")))
    return Path(engine.best_model_path)


@pytest.fixture
def content(checkpoint: Path) -> Content:
    """What it holds."""
    return read(checkpoint)


def weights(name: str, change: Callable[[torch.Tensor], Any]) -> Callable[[Content], None]:
    """Change one tensor of a checkpoint."""

    def spoil(content: Content) -> None:
        content["state_dict"][name] = change(content["state_dict"][name])

    return spoil


def not_finite(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(-1)[-1] = float("nan")
    return tensor


CRAFTED = {
    "NaN in the memory": (weights(BANK, not_finite), r"memory_bank.features holds numbers that are not finite"),
    "NaN in the last weights": (weights("model.decoder.project.bias", not_finite), "not finite"),
    "infinite text": (weights("model.text_features", lambda t: t / 0), "not finite"),
    "other prompt length": (weights(PROMPTS, lambda t: t.repeat(1, 2, 1)), "text_prompts has shape"),
    "other memory width": (weights(BANK, lambda t: t[:, 1:].contiguous()), "features has shape"),
    "huge memory": (weights(BANK, lambda t: t[:1].expand(10**9, -1)), "not contiguous"),
    "no tensor": (weights("model.is_fitted", lambda _: "yes"), "is_fitted is not a plain tensor"),
    "odd fingerprint": (weights("model.backbone_fingerprint", lambda _: torch.tensor(1.5)), "fingerprint has shape"),
    "odd threshold": (weights("post_processor.image_min", lambda t: t.repeat(3)), "image_min has shape"),
    "missing": (lambda content: content["state_dict"].pop(BANK), "memory_bank.features is missing"),
    "CLIP's own": (
        lambda content: content["state_dict"].update({"model.clip.visual.visual.proj": torch.zeros(64, 32)}),
        "clip.visual.visual.proj is not part of it",
    ),
}


def through_the_trainer(model: AnoPLe, path: Path, mvtec: Path) -> None:
    make_engine(path.parent).predict(model, datamodule=make_datamodule(mvtec), ckpt_path=path)


def through_anomalibs_loader(model: AnoPLe, path: Path, mvtec: Path) -> None:
    del mvtec
    LoadModelCallback(path).setup(None, model)


def resuming(model: AnoPLe, path: Path, mvtec: Path) -> None:
    make_engine(path.parent).fit(model, datamodule=make_datamodule(mvtec), ckpt_path=path)


def tensors(model: AnoPLe) -> dict[str, torch.Tensor]:
    """All that a checkpoint could overwrite, and CLIP."""
    return copy.deepcopy({**model.state_dict(), **dict(model.named_parameters())})


def unchanged(model: AnoPLe, before: dict[str, torch.Tensor]) -> bool:
    """Whether every tensor is what it was, NaN included."""
    now = tensors(model)
    return now.keys() == before.keys() and all(
        now[name].shape == value.shape and torch.equal(now[name].nan_to_num(7), value.nan_to_num(7))
        for name, value in before.items()
    )


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_checkpoint_is_refused_and_nothing_changes(
    content: Content, mvtec: Path, tmp_path: Path, name: str
) -> None:
    spoil, message = CRAFTED[name]
    spoil(content)
    torch.save(content, tmp_path / "crafted.ckpt")
    model = make_model()
    before = tensors(model)
    for load in (through_the_trainer, through_anomalibs_loader):
        with pytest.raises(ValueError, match=f"The weights do not fit this AnoPLe .*{message}"):
            load(model, tmp_path / "crafted.ckpt", mvtec)
        assert unchanged(model, before), load.__name__
    with pytest.raises(ValueError, match=f"The weights do not fit this AnoPLe .*{message}"):
        AnoPLe.load_from_checkpoint(tmp_path / "crafted.ckpt", visualizer=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text_context_length": 5}, r"text_prompts has shape \(3, 3, .*\) instead of \(3, 5, "),
        ({"visual_context_length": 1}, "visual_prompts has shape"),
        ({"depth": 1}, "prompts has shape"),
        ({"coupling": "text_to_image"}, "visual_to_text.bias is not part of it"),
        ({"decoder": "none"}, "trained with training.decoder plain, this model has none: build the model with"),
        ({"multi_view": False}, "view_signal has shape"),
        ({"layers": (1, 2)}, r"trained with memory.layers \[2, 3\], this model has \[1, 2\]"),
        ({"enabled": False}, r"trained with memory.layers \[2, 3\], this model has \[\]"),
        ({"decoder": "residual"}, "trained with training.decoder plain, this model has residual"),
        ({"backbone": "anople-tiny"}, "trained over the backbone ViT-miniature .random., this model has anople-tiny"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_nothing_changes(
    checkpoint: Path, mvtec: Path, arguments: dict[str, Any], message: str
) -> None:
    model = make_model(**arguments)
    before = tensors(model)
    with pytest.raises(ValueError, match=message):
        through_the_trainer(model, checkpoint, mvtec)
    assert unchanged(model, before)


def test_a_checkpoint_of_another_version_is_refused(content: Content, mvtec: Path, tmp_path: Path) -> None:
    content["anople"]["version"] = "99.0.0"
    path, model = tmp_path / "new.ckpt", make_model()
    torch.save(content, path)
    before = tensors(model)
    for load in (through_the_trainer, resuming):
        with pytest.raises(ValueError, match=r"written by version 99.0.0 of anople_anomalib"):
            load(model, path, mvtec)
        assert unchanged(model, before)
    with pytest.raises(ValueError, match=r"written by version 99.0.0 of anople_anomalib"):
        AnoPLe.load_from_checkpoint(path)


def test_metadata_with_unknown_names_are_refused(content: Content, mvtec: Path, tmp_path: Path) -> None:
    content["anople"]["unheard_of"] = "value"
    path, model = tmp_path / "crafted.ckpt", make_model()
    torch.save(content, path)
    for load in (through_the_trainer, resuming):
        with pytest.raises(ValueError, match=r"The checkpoint is refused: its metadata hold 'unheard_of'"):
            load(model, path, mvtec)


def test_a_truncated_checkpoint_is_refused_and_nothing_changes(checkpoint: Path, mvtec: Path, tmp_path: Path) -> None:
    path, model = tmp_path / "half.ckpt", make_model()
    path.write_bytes(checkpoint.read_bytes()[:50_000])
    before = tensors(model)
    for load in (through_the_trainer, resuming):
        with pytest.raises((RuntimeError, OSError)):  # torch's own error
            load(model, path, mvtec)
        assert unchanged(model, before)
    with pytest.raises(ValueError, match=r"half.ckpt' is refused"):
        AnoPLe.load_from_checkpoint(path)


def test_weights_only_is_not_negotiable(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="read with weights_only=True alone"):
        AnoPLe.load_from_checkpoint(checkpoint, weights_only=False)


def test_a_spoiled_optimizer_stops_the_run_before_it_is_saved(content: Content, mvtec: Path, tmp_path: Path) -> None:
    for state in content["optimizer_states"][0]["state"].values():
        state["momentum_buffer"].fill_(float("nan"))
    torch.save(content, tmp_path / "crafted.ckpt")
    engine = make_engine(tmp_path, max_epochs=3)
    with pytest.raises(FloatingPointError, match="no longer finite"):
        engine.fit(make_model(), datamodule=make_datamodule(mvtec), ckpt_path=tmp_path / "crafted.ckpt")
    assert not list(tmp_path.glob("results/**/*.ckpt"))


def test_a_checkpoint_is_read_and_checked_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: dict[str, int] = {"torch.load": 0, "anople_anomalib.training.checkpoints.check_weights": 0}
    for name in counted:
        monkeypatch.setattr(name, counting(counted, name))
    AnoPLe.load_from_checkpoint(checkpoint, visualizer=False)
    assert set(counted.values()) == {1}


def counting(counted: dict[str, int], name: str) -> Callable[..., Any]:
    """The function of a name, which counts its calls."""
    function = pkgutil.resolve_name(name)

    def count(*args: object, **kwargs: object) -> object:
        counted[name] += 1
        return function(*args, **kwargs)

    return count


def test_arguments_replace_those_of_the_checkpoint(checkpoint: Path) -> None:
    assert AnoPLe.load_from_checkpoint(checkpoint, visualizer=False, seed=8).hparams["seed"] == 8


@pytest.mark.parametrize(
    "place", [("hyper_parameters", "_instantiator"), ("hparams", "_instantiator"), ("hyper_parameters", "unheard_of")]
)
def test_hyper_parameters_that_name_code_are_refused(content: Content, tmp_path: Path, place: tuple[str, str]) -> None:
    """A harmless function of this module stands for the code; it is not called under any version of Lightning."""
    content.setdefault(place[0], {})[place[1]] = f"{__name__}.called"
    torch.save(content, tmp_path / "crafted.ckpt")
    with pytest.raises(ValueError, match=r"is refused: its hyper-parameters hold '(_instantiator|hparams|unheard_of)'"):
        AnoPLe.load_from_checkpoint(tmp_path / "crafted.ckpt")
    assert not CALLS


CALLS: list[object] = []


def called(*args: object) -> None:
    """What a crafted checkpoint asks for."""
    CALLS.append(args)
