# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Settings: what the presets hold, what is put over them, what is refused."""

import json
from dataclasses import fields
from typing import Any

import pytest

from anople_anomalib import presets
from anople_anomalib.config import GROUPS, MemoryConfig, PromptConfig, TrainingConfig
from anople_anomalib.presets import arguments_of, preset_names, read_preset, resolve

PRESETS = preset_names()


def test_the_papers_preset_is_the_default() -> None:
    assert PRESETS[0] == "paper"
    assert set(PRESETS) == {"paper", "visa", "offline", "dinov2"}
    assert resolve() == resolve("paper")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_complete_plain_data_and_says_why(preset: str) -> None:
    content = read_preset(preset)
    assert json.loads(json.dumps(content)) == content
    assert set(content) == {"title", "backbone", "pretrained", *GROUPS}
    assert None not in content.values()
    for name, group in GROUPS.items():
        group(**content[name])  # refuses a value that an option cannot have
        assert set(content[name]) == {field.name for field in fields(group)}
        assert None not in content[name].values()
    text = (presets._FOLDER / f"{preset}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert text.count(" # ") > 10


def test_the_papers_values() -> None:
    settings = resolve("paper")
    assert settings["backbone"] == "ViT-B-16-plus-240"
    assert settings["pretrained"] == "laion400m_e32"
    prompts, training, memory = settings["prompts"], settings["training"], settings["memory"]
    assert (prompts["text_context_length"], prompts["visual_context_length"], prompts["depth"]) == (3, 3, 9)
    assert (prompts["coupling"], prompts["state_word"], prompts["view_signal"]) == ("bidirectional", "abnormal", True)
    assert (training["epochs"], training["prompt_lr"], training["decoder_lr"]) == (60, 1e-3, 2e-4)
    assert (training["decoder"], training["alignment"], training["pixel_logits"]) == ("plain", "weighted_sum", "dot")
    assert training["image_logit_scale"] == 1 / 0.07
    assert (memory["layers"], memory["backbone"], memory["fusion"]) == ([7, 8, 9, 10], "none", "paper")
    visa = resolve("visa")
    assert (visa["prompts"]["text_context_length"], visa["prompts"]["visual_context_length"]) == (5, 8)
    assert visa["memory"]["layers"] == [7, 8, 9]


def test_the_offline_preset_needs_no_network() -> None:
    settings = resolve("offline")
    assert (settings["backbone"], settings["pretrained"]) == ("anople-tiny", "default")
    memory = settings["memory"]
    assert (memory["backbone"], memory["pretrained"], memory["fusion"]) == ("efficientnet-lite2", "default", "weighted")
    assert (memory["turns"], memory["subspace"], memory["position_weight"]) == ("auto", 0.95, 1.0)
    assert (settings["training"]["decoder"], settings["training"]["pixel_logits"]) == ("residual", "cosine")


@pytest.mark.parametrize("preset", PRESETS)
def test_resolved_settings_resolve_to_themselves(preset: str) -> None:
    settings = resolve(preset, training=TrainingConfig(epochs=7), memory={"turns": "none", "layers": (1, 2)})
    assert settings["training"]["epochs"] == 7
    assert settings["memory"]["layers"] == [1, 2]
    assert resolve(**json.loads(json.dumps(settings))) == settings


def test_none_is_the_presets_value_and_no_preset_is_changed() -> None:
    before = read_preset("offline")
    changed = resolve("offline", None, None, PromptConfig(depth=2), TrainingConfig(epochs=None), MemoryConfig())
    assert changed["prompts"]["depth"] == 2
    assert changed["training"] == before["training"]
    assert read_preset("offline") == before


def test_weights_of_a_preset_are_those_of_its_own_backbones() -> None:
    assert resolve("paper", backbone="anople-tiny")["pretrained"] == "default"
    assert resolve("paper", backbone="ViT-B-16-plus-240")["pretrained"] == "laion400m_e32"
    assert resolve("paper", pretrained="random")["pretrained"] == "random"
    memory = resolve("dinov2", memory={"backbone": "resnet18"})["memory"]
    assert (memory["image_size"], memory["turns"]) == ("default", 45)
    assert resolve("dinov2")["memory"]["image_size"] == 448


def test_without_a_memory_nothing_of_the_preset_needs_one() -> None:
    memory = resolve("offline", memory={"enabled": False})["memory"]
    assert (memory["backbone"], memory["fusion"]) == ("none", "paper")


@pytest.mark.parametrize("preset", PRESETS)
def test_what_stays_in_its_place_is_not_turned(preset: str) -> None:
    assert resolve(preset, whole=False)["memory"]["turns"] == "none"


@pytest.mark.parametrize(
    ("options", "whole", "message"),
    [
        ({"enabled": False, "fusion": "weighted"}, True, "memory.fusion weighted needs the memory: leave it out"),
        ({"enabled": False, "backbone": "resnet18"}, True, "memory.backbone resnet18 needs the memory"),
        ({"turns": "right_angles"}, False, "memory.turns right_angles turns whole shots, tiles and roi"),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, Any], whole: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve("offline", memory=options, whole=whole)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"preset": "dinov2"}, ["--model.preset", "dinov2"]),
        (
            {"preset": "paper", "backbone": "anople-tiny", "pretrained": "random"},
            ["--model.preset", "paper", "--model.backbone", "anople-tiny", "--model.pretrained", "random"],
        ),
        (
            {"preset": "offline", "memory": {"turns": "none", "layers": [1, 2], "backbone": "resnet18"}},
            [
                *("--model.preset", "offline", "--model.memory.layers", "[1, 2]"),
                *("--model.memory.backbone", "resnet18", "--model.memory.turns", "none"),
            ],
        ),
    ],
)
def test_arguments_for_the_command_line(arguments: dict[str, Any], expected: list[str]) -> None:
    assert arguments_of(resolve(**arguments)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "papers"}, "preset must be one of paper, dinov2, offline, visa, got 'papers'"),
        ({"preset": None}, "preset must be one of paper, .*, got None"),
        ({"memory": {"turn": "none"}}, "memory has no option 'turn': it has enabled, layers, "),
        (
            {"memory": TrainingConfig()},
            "memory must be a MemoryConfig or a mapping of its options, got Training",
        ),
        ({"memory": "none"}, "memory must be a MemoryConfig or a mapping of its options, got 'none'"),
        ({"prompts": {"depth": 0}}, "prompts.depth must be an integer, 1 or more, got 0"),
        ({"prompts": {"depth": "2"}}, "prompts.depth must be an integer, 1 or more, got '2'"),
        ({"prompts": {"depth": True}}, "prompts.depth must be an integer, 1 or more, got True"),
        ({"prompts": {"text_context_length": -1}}, "text_context_length must be an integer, 0 or more, got -1"),
        ({"prompts": {"coupling": "both"}}, "prompts.coupling must be one of bidirectional, .*, got 'both'"),
        ({"prompts": {"state_word": ""}}, "prompts.state_word must be one or more non-empty words, or .*, got ''"),
        ({"prompts": {"state_word": ["a", 1]}}, r"prompts.state_word must be .*, got \['a', 1\]"),
        ({"prompts": {"view_signal": 1}}, "prompts.view_signal must be true or false, got 1"),
        ({"training": {"epochs": 0}}, "training.epochs must be an integer, 1 or more, got 0"),
        ({"training": {"seed": -1}}, "training.seed must be an integer, 0 or more, got -1"),
        ({"training": {"prompt_lr": -1.0}}, "training.prompt_lr must be a finite number, 0 or more, got -1.0"),
        ({"training": {"decoder_lr": float("nan")}}, "training.decoder_lr must be a finite number, .*, got nan"),
        ({"training": {"decoder": "small"}}, "training.decoder must be one of plain, residual, none, got 'small'"),
        ({"training": {"alignment": "sum"}}, "training.alignment must be one of weighted_sum, mean, none, got 'sum'"),
        ({"training": {"image_logit_scale": 0}}, "image_logit_scale must be a finite number above 0, or 'clip', got 0"),
        ({"training": {"pixel_logits": "l2"}}, "training.pixel_logits must be one of dot, cosine, got 'l2'"),
        ({"training": {"anomaly_source": ""}}, "training.anomaly_source must be a name or a path, got ''"),
        ({"memory": {"layers": []}}, r"memory.layers must be layer numbers, 1 or more, got \[\]"),
        ({"memory": {"layers": [1.5]}}, r"memory.layers must be layer numbers, 1 or more, got \[1.5\]"),
        ({"memory": {"layers": 3}}, "memory.layers must be layer numbers, 1 or more, got 3"),
        ({"memory": {"coreset_ratio": 0}}, "memory.coreset_ratio must be above 0 and at most 1, got 0"),
        (
            {"memory": {"image_size": 20}},
            "image_size must be an integer, 32 or more, or 'auto', or 'default', got 20",
        ),
        (
            {"memory": {"turns": "all"}},
            "memory.turns must be one of .*, none, or a multiple of 15 degrees that divides 360, got 'all'",
        ),
        ({"memory": {"subspace": 1}}, "memory.subspace must be 0 for none or a share of the variance below 1, got 1"),
        ({"memory": {"fusion": "mean"}}, "memory.fusion must be one of paper, weighted, got 'mean'"),
        ({"memory": {"score_share": 1.5}}, "memory.score_share must be between 0 and 1, got 1.5"),
    ],
)
def test_wrong_options_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(**arguments)


@pytest.mark.parametrize("group", GROUPS.values())
def test_every_option_is_none_by_default_and_documented(group: type) -> None:
    for field in fields(group):
        assert field.default is None
        assert f"\n        {field.name}: " in group.__doc__ or f"\n    {field.name}: " in group.__doc__, field.name
