# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Does a training run end with texts that differ and a decoder that sees? The paper's silent spots, read in turn.

Trains ``anople-tiny`` on one photograph of each texture of ``SampleTextures``, step by step and without an engine. It
prints the pixel AUROC of the decoder's map alone, of the memory's and of the fused map, the image AUROC of p_hat and
of the fused score, the cosine of w+ and w-, and the rank correlation of the fused with the memory's map (1 would be a
copy). With ``--logit-scale 100`` the backbone has the logit scale of the real CLIPs, at which runs can collapse.

Usage:
    python benchmarks/training_soundness.py --logit-scale 100 --model residual_decoder=false
    python benchmarks/training_soundness.py --logit-scale 100 --model residual_decoder=false paired_anomalies=false
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from anomalib.data import AnomalibDataModule
from scipy.stats import spearmanr
from torch.nn import functional as F

from anople_anomalib import AnoPLe, MemoryConfig
from anople_anomalib.data import FewShot
from anople_anomalib.metrics.score_counts import ScoreHistogram, auroc
from anople_anomalib.utils.scoped import seeded

TEXTURES = ("brick", "grass", "gravel")
COLUMNS = {
    "cosine": "cos(w+, w-)",
    "decoder": "decoder",
    "memory": "memory",
    "fused": "fused",
    "probability": "p_hat, images",
    "score": "score, images",
    "copy": "rank correlation with the memory",
}
_COMPARED = 20_000  # pixels of a texture, for the rank correlation


def build(categories: Sequence[str], seed: int, logit_scale: float | None, arguments: dict[str, Any]) -> AnoPLe:
    """Build a model over a backbone with another logit scale."""
    model = AnoPLe(
        "offline",
        memory=MemoryConfig(backbone="none", fusion="paper"),
        visualizer=False,
        evaluator=False,
        **{**arguments, "training": {"seed": seed, **arguments.get("training", {})}},
    )
    if logit_scale is not None:
        inner = model.model
        inner.pixel_logit_scale.fill_(logit_scale)
        if model.hparams["training"]["image_logit_scale"] == "clip":  # CLIP's own
            inner.image_logit_scale.fill_(logit_scale)
    model.prepare_texts(list(categories))
    return model


def attach_texts(model: AnoPLe) -> None:
    """Let the gradient of the pixel loss flow into the texts, which the model holds back."""
    inner, latest = model.model, {}
    encode, compare = inner.encode_texts, inner.pixel_logits_of  # what is measured is what is avoided

    def encode_and_keep(prompts: torch.Tensor) -> torch.Tensor:
        latest["texts"] = encode(prompts)
        return latest["texts"]

    inner.encode_texts = encode_and_keep
    inner.pixel_logits_of = lambda local_features, _: compare(local_features, latest["texts"])


def train(model: AnoPLe, images: Sequence[torch.Tensor], steps: int, seed: int) -> None:
    """Train a model on one image a step, in turn, and finalize it.

    Args:
        model: The model.
        images: Shots of shape ``(1, 3, H, W)``, values in [0, 1].
        steps: Number of steps.
        seed: Seed of the simulated anomalies.
    """
    rates = (model.hparams["training"]["prompt_lr"], model.hparams["training"]["decoder_lr"])
    parts = (model.model.prompt_learner, model.model.decoder)
    optimizer = torch.optim.SGD(
        [{"params": part.parameters()} for part in parts], lr=rates[0], momentum=0.9, weight_decay=1e-5
    )
    model.train()
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (step + 1) / max(1, steps // 10))
        with seeded(seed, step):
            views, masks = model._simulated_views(images[step % len(images)])  # noqa: SLF001  # no trainer here
            normal = masks.flatten(1).amax(dim=1) == 0 if model.hparams["training"]["latent_anomalies"] else None
            output = model.model.training_forward(views, normal)
        terms = {name: value for name, value in output._asdict().items() if name != "text_features"}
        optimizer.zero_grad()
        torch.stack(list(model.loss(masks=masks, **terms).values())).sum().backward()
        optimizer.step()
    model.normal_images = lambda: iter(images)
    model.finalize()
    model.eval()


@torch.no_grad()
def test(model: AnoPLe, datamodule: AnomalibDataModule) -> dict[str, dict[str, float]]:
    """Measure maps and scores on every texture.

    Returns:
        By texture: pixel AUROC in percent of ``decoder``, ``memory`` and ``fused``, image AUROC in percent of
        ``probability`` (p_hat) and ``score``, and ``copy``, the rank correlation of the fused and the memory's map.
    """
    inner, rows, maps = model.model, {}, {}
    for batch in datamodule.test_dataloader():
        visual = inner.encode_whole(model.pre_processor(batch.image))
        found = {"decoder": inner.decoder_map(visual), "memory": inner.memory_map(visual)}
        found["fused"] = inner.fusion.map(found["decoder"], found["memory"])
        probability = inner.abnormal_probability(visual)
        truth = F.interpolate(batch.gt_mask.unsqueeze(1).float(), inner.image_size).squeeze(1).bool()  # as the engine's
        single = {"probability": probability, "score": inner.fusion.score(probability, found["fused"])}
        for index, path in enumerate(batch.image_path):
            category, here = datamodule.category_of(path), slice(index, index + 1)
            scores = rows.setdefault(category, {name: ScoreHistogram() for name in (*found, *single)})
            for name, each in found.items():
                scores[name].update(each[here], truth[here])
            for name, each in single.items():
                scores[name].update(each[here], batch.gt_label[here])
            maps.setdefault(category, []).append(
                torch.stack([found["fused"][index], found["memory"][index]]).flatten(1)
            )
    return {category: {**_percent(scores), "copy": _copy(maps[category])} for category, scores in rows.items()}


def _percent(scores: dict[str, ScoreHistogram]) -> dict[str, float]:
    """Compute the AUROC of each, in percent."""
    counts = {name: each.read() for name, each in scores.items()}
    return {name: 100 * float(auroc(each.normal, each.anomalous)) for name, each in counts.items()}


def _copy(maps: list[torch.Tensor]) -> float:
    """Compute the rank correlation of the fused and the memory's map, on evenly chosen pixels."""
    fused, memory = torch.cat(maps, dim=1)
    chosen = torch.linspace(0, len(fused) - 1, _COMPARED).long()
    return float(spearmanr(fused[chosen], memory[chosen])[0])


def measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table: one model per texture, or with ``--together`` one for all."""
    groups = [TEXTURES] if arguments.together else [(texture,) for texture in arguments.textures]
    settings: dict[str, Any] = {}
    for name, value in arguments.model:
        group, _, option = name.rpartition(".")
        (settings.setdefault(group, {}) if group else settings)[option] = yaml.safe_load(value)
    for seed in arguments.seeds:
        for categories in groups:
            datamodule = FewShot("SampleTextures", categories=list(categories), seed=seed, num_workers=0)
            datamodule.prepare_data()
            datamodule.setup()
            model = build(categories, seed, arguments.logit_scale, settings)
            if arguments.attached_texts:
                attach_texts(model)
            images = [item.image.unsqueeze(0) for item in datamodule.train_data]
            train(model, images, arguments.steps, seed)
            normal, abnormal = model.model.text_features
            for category, row in test(model, datamodule).items():
                yield {"texture": category, "seed": seed, "cosine": float(normal @ abnormal), **row}


def main() -> None:
    """Print the settings and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="training steps (default: 60)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of shots and runs (default: 0)")
    parser.add_argument("--logit-scale", type=float, help="logit scale that stands for CLIP's own (default: its own)")
    parser.add_argument("--textures", nargs="+", default=TEXTURES, choices=TEXTURES, help="(default: all)")
    parser.add_argument("--together", action="store_true", help="one model for all three textures")
    parser.add_argument("--attached-texts", action="store_true", help="let the pixel loss train the texts, too")
    parser.add_argument("--output", type=Path, help="file to which each row is appended as JSON, with its settings")
    parser.add_argument(
        "--model", nargs="*", default=[], type=lambda text: tuple(text.split("=", 1)), help="arguments of AnoPLe"
    )
    arguments = parser.parse_args()
    print(f"| texture | seed | {' | '.join(COLUMNS.values())} |")
    print(f"| --- |{' ---: |' * (1 + len(COLUMNS))}")
    for row in measure(arguments):
        numbers = (f"{row[name]:.{3 if name in {'cosine', 'copy'} else 1}f}" for name in COLUMNS)
        print(f"| {row['texture']} | {row['seed']} | {' | '.join(numbers)} |", flush=True)
        if arguments.output:
            settings = {name: value for name, value in vars(arguments).items() if name not in {"output", "seeds"}}
            with arguments.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**row, "settings": settings}) + "\n")


if __name__ == "__main__":
    main()
