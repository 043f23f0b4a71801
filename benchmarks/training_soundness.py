# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Does a training run end with texts that differ and a decoder that sees? The paper's silent spots, read in turn.

Trains ``anople-tiny`` on one photograph of each texture of ``SampleTextures``, step by step and without an engine. It
prints the pixel AUROC of the decoder's map alone, of the memory's and of the fused map, the cosine of w+ and w-, and
the rank correlation of the fused with the memory's map (1 would be a copy). With ``--logit-scale 100`` the backbone has
the logit scale of the real CLIPs, at which runs can collapse.

Usage:
    python benchmarks/training_soundness.py --logit-scale 100 --model residual_decoder=false
    python benchmarks/training_soundness.py --logit-scale 100 --model residual_decoder=false paired_anomalies=false
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import yaml
from anomalib.data import AnomalibDataModule
from scipy.stats import spearmanr

from anople_anomalib import AnoPLe
from anople_anomalib.data import FewShot
from anople_anomalib.metrics.category_scores import CategoryScores
from anople_anomalib.utils.seeding import seeded

TEXTURES = ("brick", "grass", "gravel")
_COMPARED = 20_000  # pixels of a texture, for the rank correlation


def build(categories: Sequence[str], seed: int, logit_scale: float | None, arguments: dict[str, Any]) -> AnoPLe:
    """Build a model over a backbone with another logit scale."""
    model = AnoPLe(
        "anople-tiny",
        training_seed=seed,
        memory_backbone="none",
        fusion="paper",
        visualizer=False,
        evaluator=False,
        **arguments,
    )
    if logit_scale is not None:
        inner = model.model
        for name in ("image_logit_scale", "pixel_logit_scale"):
            if model.hparams[name] is None:  # CLIP's own
                getattr(inner, name).fill_(logit_scale)
    model.prepare_texts(list(categories))
    return model


def train(model: AnoPLe, images: Sequence[torch.Tensor], steps: int, seed: int) -> None:
    """Train a model on one image a step, in turn, and finalize it.

    Args:
        model: The model.
        images: Shots of shape ``(1, 3, H, W)``, values in [0, 1].
        steps: Number of steps.
        seed: Seed of the simulated anomalies.
    """
    rates = (model.hparams["prompt_lr"], model.hparams["decoder_lr"])
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
            normal = masks.flatten(1).amax(dim=1) == 0 if model.hparams["latent_anomalies"] else None
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
    """Measure the maps on every texture.

    Returns:
        By texture: pixel AUROC in percent of ``decoder``, ``memory`` and ``fused``, and ``copy``, the rank correlation
        of the fused and the memory's map.
    """
    rows: dict[str, dict[str, CategoryScores]] = {}
    maps: dict[str, list[torch.Tensor]] = {}
    for batch in datamodule.test_dataloader():
        images = model.pre_processor(batch.image)
        visual = model.model.encode_whole(images)
        found = {
            "decoder": model.model.decoder_map(visual),
            "memory": model.model.memory_map(visual),
            "fused": model.model(images).anomaly_map.squeeze(1),
        }
        for index, path in enumerate(batch.image_path):
            category = datamodule.category_of(path)
            for name, each in found.items():
                scores = rows.setdefault(category, {}).setdefault(name, CategoryScores())
                scores.update_pixels(each[index : index + 1], None, batch.gt_mask[index : index + 1])
            maps.setdefault(category, []).append(
                torch.stack([found["fused"][index], found["memory"][index]]).flatten(1)
            )
    result = {}
    for category, scores in rows.items():
        values = {name: 100 * float(each.compute(["pixel_AUROC"])[0]["pixel_AUROC"]) for name, each in scores.items()}
        fused, memory = torch.cat(maps[category], dim=1)
        chosen = torch.linspace(0, len(fused) - 1, _COMPARED).long()
        result[category] = {**values, "copy": float(spearmanr(fused[chosen], memory[chosen])[0])}
    return result


def measure(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the table: one model per texture, or with ``--together`` one for all."""
    yield "| texture | seed | cos(w+, w-) | decoder | memory | fused | rank correlation with the memory |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    groups = [TEXTURES] if arguments.together else [(texture,) for texture in TEXTURES]
    settings = dict(yaml.safe_load(f"{name}: {value}").popitem() for name, value in arguments.model)
    for seed in arguments.seeds:
        for categories in groups:
            datamodule = FewShot("SampleTextures", categories=list(categories), seed=seed, num_workers=0)
            datamodule.prepare_data()
            datamodule.setup()
            model = build(categories, seed, arguments.logit_scale, settings)
            images = [item.image.unsqueeze(0) for item in datamodule.train_data]
            train(model, images, arguments.steps, seed)
            normal, abnormal = model.model.text_features
            for category, row in test(model, datamodule).items():
                values = " | ".join(f"{row[name]:.1f}" for name in ("decoder", "memory", "fused"))
                yield f"| {category} | {seed} | {float(normal @ abnormal):.3f} | {values} | {row['copy']:.3f} |"


def main() -> None:
    """Print the settings and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="training steps (default: 60)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of shots and runs (default: 0)")
    parser.add_argument("--logit-scale", type=float, help="logit scale that stands for CLIP's own (default: its own)")
    parser.add_argument("--together", action="store_true", help="one model for all three textures")
    parser.add_argument(
        "--model", nargs="*", default=[], type=lambda text: tuple(text.split("=", 1)), help="arguments of AnoPLe"
    )
    for line in measure(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
