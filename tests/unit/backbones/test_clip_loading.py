# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Backbones by name, their weights, fingerprints and errors."""

import hashlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from torch.testing import assert_close

from anople_anomalib import AnoPLe
from anople_anomalib.backbones import clip_loading as backbones
from anople_anomalib.backbones.clip_loading import TINY, default_weights, get_tokenizer, load_backbone
from helpers.miniature import CONFIG, IMAGE_SIZE, MINIATURE, build


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """Weights of the miniature that are not the ones of ``"random"``."""
    return {name: value + 0.01 for name, value in build().state_dict().items()}


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone() -> None:
    first = load_backbone(MINIATURE, "random")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    second = load_backbone(MINIATURE, "random")
    assert torch.equal(torch.get_rng_state(), state)
    pairs = zip(first.clip.parameters(), second.clip.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert first.clip.fingerprint == second.clip.fingerprint


def test_random_weights_are_used_on_request_only_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="anople_anomalib"):
        load_backbone(MINIATURE, "random")
    assert "has random weights, as asked for" in caplog.text
    with pytest.raises(ValueError, match=f"open_clip has no weights for '{MINIATURE}'"):
        load_backbone(MINIATURE)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_a_file(tmp_path: Path, weights: dict[str, torch.Tensor], suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(weights, path) if suffix == ".pt" else save_file(weights, path)
    backbone = load_backbone(MINIATURE, str(path))
    assert torch.equal(backbone.clip.visual.visual.proj, weights["visual.proj"])
    assert torch.equal(backbone.clip.text.positional_embedding, weights["positional_embedding"])
    assert (backbone.name, backbone.weights) == (MINIATURE, str(path))
    assert not any(parameter.requires_grad for parameter in backbone.clip.parameters())


def test_a_checkpoint_of_open_clip_gives_the_features_of_its_source(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        source = open_clip.create_model(MINIATURE).eval()
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    clip = load_backbone(MINIATURE, str(tmp_path / "weights.pt")).clip
    images, tokens = torch.rand(2, 3, *IMAGE_SIZE), open_clip.tokenize(["bottle", "abnormal bottle"])
    with torch.no_grad():
        assert_close(clip.visual(images).image_embedding, source.encode_image(images))
        assert_close(clip.text(tokens), source.encode_text(tokens), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, weights: dict[str, torch.Tensor], suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(weights, path) if suffix == ".pt" else save_file(weights, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=f"weights{suffix}' does not hold readable weights of {MINIATURE}"):
        load_backbone(MINIATURE, str(path))


def test_fingerprint_tells_weights_apart(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights, tmp_path / "other.pt")
    other, plain = load_backbone(MINIATURE, str(tmp_path / "other.pt")), load_backbone(MINIATURE, "random")
    assert len(other.clip.fingerprint) == len(plain.clip.fingerprint) == 32
    assert other.clip.fingerprint != plain.clip.fingerprint


def test_normalization_is_clips_by_default() -> None:
    backbone = load_backbone(MINIATURE, "random")
    assert backbone.mean == (0.48145466, 0.4578275, 0.40821073)
    assert backbone.std == (0.26862954, 0.26130258, 0.27577711)


HALF, CLIPS = ((0.5,) * 3, (0.5,) * 3), (backbones.CLIP_MEAN, backbones.CLIP_STD)


@pytest.fixture
def tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags of the miniature, as ViT-L-14 has them: one of them wants another normalization."""
    half = dict(zip(("mean", "std"), HALF, strict=True))
    known = {"openai": {"mean": CLIPS[0], "std": CLIPS[1]}, "laion2b_s32b_b82k": half, "laion400m_e32": {}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, MINIATURE, known)


@pytest.mark.usefixtures("tags")
@pytest.mark.parametrize(
    ("file", "config", "normalization", "warned"),
    [
        ("laion2b_s32b_b82k.pt", None, HALF, False),
        ("ViT-mini-laion2b_s32b_b82k-fp16.safetensors", None, HALF, False),
        ("models--laion--CLIP-ViT-L-14-laion2B-s32B-b82K/snapshots/16/open_clip_pytorch_model.bin", None, HALF, False),
        ("vit_l_14-laion400m_e32-3d133497.pt", None, CLIPS, False),
        ("weights.pt", None, CLIPS, True),
        ("openai/laion2b_s32b_b82k.pt", None, CLIPS, True),  # one or the other
        ("weights.pt", {"preprocess_cfg": {"mean": HALF[0], "std": HALF[1]}}, HALF, False),
        ("laion2b_s32b_b82k.pt", {"preprocess_cfg": {"mean": CLIPS[0], "std": CLIPS[1]}}, CLIPS, False),
        ("weights.pt", {"model_cfg": {}}, CLIPS, True),
    ],
)
def test_a_file_is_normalized_as_its_source(
    tmp_path: Path,
    weights: dict[str, torch.Tensor],
    caplog: pytest.LogCaptureFixture,
    file: str,
    config: object,
    normalization: object,
    warned: bool,
) -> None:
    path = tmp_path / "a" / "b" / "c" / file
    path.parent.mkdir(parents=True)
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    if config is not None:
        path.with_name("open_clip_config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING, logger="anople_anomalib"):
        backbone = load_backbone(MINIATURE, str(path))
    assert (backbone.mean, backbone.std) == normalization
    said = f"wrong for the weights laion2b_s32b_b82k of {MINIATURE}"
    assert (said in caplog.text) == warned
    model = AnoPLe("offline", MINIATURE, str(path), memory={"backbone": "none"})
    normalize = model.pre_processor.transform.transforms[-1]
    assert (tuple(normalize.mean), tuple(normalize.std)) == normalization


QUICK = f"{MINIATURE}-quickgelu"


@pytest.fixture
def activations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniature with tags as ViT-L-14 has them, and its architecture with QuickGELU."""
    known = {
        "openai": {"quick_gelu": True}, "laion400m_e32": {},
        "dfn2b": {"quick_gelu": True, "hf_hub": "apple/DFN2B-CLIP-ViT-L-14/"},
        "dfn2b_s39b": {"hf_hub": "apple/DFN2B-CLIP-ViT-L-14-39B/"},
    }  # fmt: skip
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, MINIATURE, known)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, QUICK, CONFIG | {"quick_gelu": True})


def _place_weights(folder: Path, file: str, weights: dict[str, torch.Tensor], config: dict | None) -> str:
    path = folder / "a" / "b" / "c" / file
    path.parent.mkdir(parents=True)
    torch.save(weights, path)
    if config is not None:
        path.with_name("open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return str(path)


@pytest.mark.usefixtures("activations")
@pytest.mark.parametrize(
    ("name", "file", "config", "said"),
    [
        (MINIATURE, "ViT-mini-openai.pt", None, f"for QuickGELU .by the tag 'openai' .* GELU: .*backbone {QUICK}[.]"),
        (
            MINIATURE,
            "models--apple--DFN2B-CLIP-ViT-L-14/snapshots/1/weights.bin",
            None,
            "QuickGELU .by the tag 'dfn2b'",
        ),
        (MINIATURE, "weights.pt", CONFIG | {"quick_gelu": True}, "QuickGELU .by the open_clip_config.json beside it"),
        (QUICK, "weights.pt", CONFIG, f"for GELU .*but {QUICK} is built with QuickGELU: .*backbone {MINIATURE}[.]"),
    ],
)
def test_a_file_for_another_activation_is_refused(
    tmp_path: Path, weights: dict[str, torch.Tensor], name: str, file: str, config: dict | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        load_backbone(name, _place_weights(tmp_path, file, weights, config))


@pytest.mark.usefixtures("activations")
def test_an_activation_that_no_architecture_has_is_refused_without_naming_one(
    tmp_path: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(open_clip.factory._MODEL_CONFIGS, QUICK)
    with pytest.raises(ValueError, match="built with GELU: choose another backbone, or other weights"):
        load_backbone(MINIATURE, _place_weights(tmp_path, "openai.pt", weights, None))


@pytest.mark.usefixtures("activations")
@pytest.mark.parametrize(
    ("name", "file", "config"),
    [
        (MINIATURE, "weights.pt", None),
        (MINIATURE, "laion400m_e32.pt", None),
        (MINIATURE, "dfn2b_s39b.pt", None),  # not dfn2b, which is part of it
        (MINIATURE, "models--apple--DFN2B-CLIP-ViT-L-14-39B/snapshots/1/weights.bin", None),
        (MINIATURE, "openai/laion400m_e32.pt", None),  # one or the other
        (MINIATURE, "openai.pt", CONFIG),  # the configuration counts more
        (QUICK, "openai.pt", None),
        (QUICK, "weights.pt", CONFIG | {"quick_gelu": True}),
    ],
)
def test_a_file_for_the_same_or_an_unknown_activation_is_loaded(
    tmp_path: Path, weights: dict[str, torch.Tensor], name: str, file: str, config: dict | None
) -> None:
    model = backbones.load_clip(name, _place_weights(tmp_path, file, weights, config))
    assert any(isinstance(module, QuickGELU) for module in model.modules()) == (name == QUICK)
    assert_close(dict(model.named_parameters()), {key: weights[key] for key, _ in model.named_parameters()})


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}', '{"preprocess_cfg": {"mean": 0.5, "std": 0.5}}',
        '{"preprocess_cfg": {"mean": [0, 0, 0], "std": [1, 1, 0]}}', '{"preprocess_cfg": {"mean": [0], "std": [1]}}',
    ],
)  # fmt: skip
def test_an_odd_configuration_beside_a_file_is_refused(
    tmp_path: Path, weights: dict[str, torch.Tensor], content: str
) -> None:
    torch.save(weights, tmp_path / "weights.pt")
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"open_clip_config.json' beside the weights does not say how .*: its prepro"):
        load_backbone(MINIATURE, str(tmp_path / "weights.pt"))


def test_a_checkpoint_is_refused_where_images_would_be_normalized_in_another_way(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    torch.save(weights, tmp_path / "weights.pt")
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps({"preprocess_cfg": {"mean": HALF[0], "std": HALF[1]}}))

    def build() -> AnoPLe:
        return AnoPLe("offline", MINIATURE, str(tmp_path / "weights.pt"), memory={"backbone": "none"})

    taught = build()
    build().load_state_dict(taught.state_dict())
    config.unlink()
    with pytest.raises(ValueError, match=r"over another backbone .* with the open_clip_config.json that was beside"):
        build().load_state_dict(taught.state_dict())


def test_one_architecture_alone_has_weights_of_several_normalizations() -> None:
    fitting = [name for name in open_clip.list_models() if not backbones._misfit(open_clip.get_model_config(name))]
    several = {name for name in fitting if len(set(backbones._normalizations(backbones._tags(name)).values())) > 1}
    assert several == {"ViT-L-14"}, "say so in docs/presets.md"


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("ViT-B-16-plus-240", "laion400m_e32"),
        ("ViT-B-32", "laion2b_e16"),
        ("ViT-L-14", "laion2b_s32b_b82k"),
        ("ViT-L-14-336", "openai"),
    ],
)
def test_default_weights(name: str, tag: str) -> None:
    assert default_weights(name) == tag
    assert tag in open_clip.list_pretrained_tags_by_model(name)


def test_default_weights_of_the_bundled_backbone() -> None:
    assert Path(default_weights(TINY)).name == "open_clip_model.safetensors"


def test_unknown_name_lists_what_fits() -> None:
    with pytest.raises(
        ValueError, match=r"backbone must be 'anople-tiny' or a CLIP of open_clip \(.*\), got 'ViT'"
    ) as e:
        load_backbone("ViT")
    listed = str(e.value)
    assert "ViT-B-16-plus-240" in listed
    assert "RN50" not in listed
    assert "coca" not in listed


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("RN50", "its visual tower is a ResNet"),
        ("coca_ViT-B-32", "a CoCa model"),
        ("convnext_base", "comes from timm"),
        ("roberta-ViT-B-32", "comes from transformers"),
        ("ViT-B-16-SigLIP", "comes from timm"),
    ],
)
def test_unfit_towers_are_refused_before_anything_is_built(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"AnoPLe does not fit the backbone {name}: .*{reason}.*such as ViT-B-16"):
        load_backbone(name, "random")


@pytest.mark.parametrize(
    ("vision", "text"),
    [({"final_ln_after_pool": True}, {}), ({}, {"no_causal_mask": True}), ({}, {"pool_type": "last"})],
)
def test_unfit_settings_are_refused_once_built(vision: dict, text: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "_create", lambda _name: build(vision=vision, text=text))
    with pytest.raises(ValueError, match="its towers are not the plain transformers of CLIP"):
        load_backbone(MINIATURE, "random")


def test_unknown_tag_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"must be a tag of ViT-B-32 \(.*openai.*\), a checkpoint file or 'random', got"
    ):
        load_backbone("ViT-B-32", "laion5b")


def test_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing.pt"
    with pytest.raises(FileNotFoundError, match=r"weights file '.*missing.pt' for .* does not exist: check the path"):
        load_backbone(MINIATURE, str(path))


@pytest.mark.parametrize("content", [b"", b"these are no weights"], ids=["empty", "text"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_unreadable_file_is_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"broken{suffix}' does not hold readable weights of {MINIATURE}"):
        load_backbone(MINIATURE, str(path))


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        """What pickle runs."""
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".safetensors"])
def test_pickled_code_in_a_file_of_weights_is_refused_and_not_run(tmp_path: Path, suffix: str) -> None:
    path, mark = tmp_path / f"weights{suffix}", tmp_path / "the bomb went off"
    torch.save({**build().state_dict(), "extra": Bomb(mark)}, path)
    with pytest.raises(ValueError, match=f"weights{suffix}' does not hold readable weights of {MINIATURE}") as refusal:
        load_backbone(MINIATURE, str(path))
    assert "weights_only" not in str(refusal.value)
    assert not mark.exists()


@pytest.mark.parametrize("changes", [{"vision": {"width": 96}}, {"text": {"width": 96}}], ids=str)
def test_file_of_another_model_is_refused(tmp_path: Path, changes: dict[str, dict]) -> None:
    torch.save(build(**changes).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(ValueError, match="does not hold readable weights"):
        load_backbone(MINIATURE, str(tmp_path / "wide.pt"))


def test_without_a_network_the_error_says_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    tags = {"never": {"hf_hub": "nobody/nothing/"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, MINIATURE, tags)
    said = r"\(open_clip_model.safetensors of nobody/nothing\) .*downloaded: .*--model.pretrained PATH.*anople-tiny"
    with pytest.raises(FileNotFoundError, match=said):
        load_backbone(MINIATURE)


E32_URL = backbones.TRUE_URLS["ViT-B-16-plus-240", "laion400m_e32"]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[bytes, str], list[str]]:
    """A network with one file, whose name ends in eight digits, under the tag ``e32`` of the miniature."""

    def serve(content: bytes, digits: str) -> list[str]:
        asked = []

        def answer(url: str, *_: object, **__: object) -> io.BytesIO:
            asked.append(url)
            response = io.BytesIO(content)
            response.headers = {"Content-Length": str(len(content))}
            return response

        url = f"https://github.com/mlfoundations/open_clip/releases/download/v0/miniature-e32-{digits}.pt"
        tags = {"e32": {"url": url, "hf_hub": "nobody/miniature.e31/"}}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, MINIATURE, tags)
        monkeypatch.setitem(backbones.TRUE_URLS, (MINIATURE, "e32"), url)
        monkeypatch.setattr("urllib.request.urlopen", answer)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        return asked

    return serve


def test_e32_is_the_file_whose_name_ends_in_its_hash() -> None:
    assert E32_URL.endswith("/vit_b_16_plus_240-laion400m_e32-699c4b84.pt")
    config = open_clip.pretrained.get_pretrained_cfg("ViT-B-16-plus-240", "laion400m_e32")
    assert config["url"] in {"", E32_URL}
    assert "e32" not in config["hf_hub"], "open_clip names the right file now: TRUE_URLS can go"


def test_the_true_file_of_a_tag_is_downloaded_checked_and_named(
    network: Callable, weights: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(weights, buffer := io.BytesIO())
    content = buffer.getvalue()
    asked = network(content, hashlib.sha256(content).hexdigest()[:8])
    with caplog.at_level(logging.INFO, logger="anople_anomalib"):
        backbone = load_backbone(MINIATURE, "e32")
    assert torch.equal(backbone.clip.visual.visual.proj, weights["visual.proj"])
    assert "miniature-e32-" in caplog.text
    assert "hash checked" in caplog.text
    load_backbone(MINIATURE, "e32")
    assert len(asked) == 1


def test_a_file_of_another_hash_is_refused(network: Callable, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights, buffer := io.BytesIO())
    network(buffer.getvalue(), "00000000")
    with pytest.raises(FileNotFoundError, match=r"miniature-e32-00000000.pt\) .*SHA-256 is not.*laion400m_e31"):
        load_backbone(MINIATURE, "e32")


@pytest.mark.parametrize("name", [MINIATURE, TINY])
def test_tokenizer_is_clips(name: str) -> None:
    tokens = get_tokenizer(name)(["bottle"])
    assert tokens.shape == (1, CONFIG["text_cfg"]["context_length"])
    assert torch.equal(tokens, open_clip.tokenize(["bottle"]))
