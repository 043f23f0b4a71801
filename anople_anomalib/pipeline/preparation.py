# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a model learns from auxiliary data before it sees the shots: once per data, arguments and seed, in a file."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file

from anople_anomalib.backbones.frozen import fingerprint_of
from anople_anomalib.baselines.transfer import AuxiliaryCategory, AuxiliaryLearner, auxiliary_data
from anople_anomalib.data import FewShot
from anople_anomalib.data.dataset_checks import SUBSETS
from anople_anomalib.data.image_reading import image_digest, turned_size
from anople_anomalib.data.parts import white_of
from anople_anomalib.data.sample_textures import cache_folder
from anople_anomalib.data.wrapping import ALL, build_datamodule, choose_categories
from anople_anomalib.utils.files import digest_of, written_whole
from anople_anomalib.utils.scoped import seeded
from anople_anomalib.utils.transforms import transform_of
from anople_anomalib.utils.version import __version__

from .building import build_model, categories_of, model_class
from .measures import PeakMemory, Stopwatch
from .settings import JobSettings, auxiliary_text, class_name

OTHERS = "others"
"""Word for all categories of the auxiliary data but those that are tested."""


class Preparation(NamedTuple):
    """What a model has learned from auxiliary data."""

    state: dict[str, torch.Tensor]  # state dict of its torch model; empty for a model that learns from its shots alone
    columns: dict[str, Any]  # columns of a result row: ``transfer``, the data, and the costs of learning from them


def prepare(
    settings: JobSettings, datamodule: AnomalibDataModule, device: torch.device, gpu: int | None
) -> Preparation:
    """Let the model of a job learn from its auxiliary data, or read the state of one with the same settings.

    Args:
        settings: Settings of the job.
        datamodule: The data that the job tests on.
        device: Device to learn on.
        gpu: Number of the CUDA device; ``None`` for another device.

    Raises:
        ValueError: If the model needs auxiliary data and has none, or has some and learns from its shots alone; if they
            hold a category or an image of the data that are tested.
    """
    name, auxiliary = class_name(settings.model), settings.auxiliary
    if not issubclass(model_class(settings.model["class_path"]), AuxiliaryLearner):
        if auxiliary is not None:
            msg = f"{name} learns from its shots alone: take `auxiliary` out of this model's settings."
            raise ValueError(msg)
        return Preparation({}, {})
    seed = settings.model["init_args"].get("training_seed", settings.seed)
    with seeded(seed):
        model = build_model(settings, datamodule)
    if auxiliary is None:
        if isinstance(model, AuxiliaryLearner) and not model.needs_auxiliary:
            return Preparation({}, {})
        msg = f"{name} learns from other data before it sees the shots: name a datamodule as `auxiliary` of this model."
        raise ValueError(msg)
    categories = _categories(auxiliary, categories_of(datamodule))
    data = auxiliary_data(auxiliary["datamodule"], categories, transform_of(model.pre_processor))
    _refuse_known_images(data, settings, datamodule)
    start = fingerprint_of(chain(model.named_parameters(), model.named_buffers())).hex()
    path = _path([settings.model, model.hparams.get("k_shot"), seed, device.type, start], name, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # of jobs side by side one learns
        if not path.is_file():
            _learn(settings, datamodule, data, seed, device, gpu, path)
    with safe_open(path, framework="pt") as file:
        costs = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    remark = model.remark(data) if isinstance(model, AuxiliaryLearner) else ""
    text = auxiliary_text({**auxiliary, "categories": categories})
    return Preparation(state, {"transfer": f"{text} ({remark})" if remark else text, **costs})


def _learn(
    settings: JobSettings,
    datamodule: AnomalibDataModule,
    data: Mapping[str, AuxiliaryCategory],
    seed: int,
    device: torch.device,
    gpu: int | None,
    path: Path,
) -> None:
    """Build a model, let it learn, and write its state and the costs."""
    with PeakMemory(gpu) as memory, seeded(seed, device=device):
        watch = Stopwatch()
        model = build_model(settings, datamodule)
        if isinstance(model, AuxiliaryLearner):
            model.to(device).train().learn_from_auxiliary(data)
        seconds, processor = watch.read()
    costs = {"preparation_seconds": seconds, "preparation_cpu_seconds": processor}
    costs |= {} if memory.megabytes is None else {"preparation_memory_mb": memory.megabytes}
    costs["trainable_parameters"] = sum(each.numel() for each in model.model.parameters() if each.requires_grad)
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.model.state_dict().items()}
    with written_whole(path) as temporary:
        save_file(state, temporary, metadata={name: repr(cost) for name, cost in costs.items()})


def _categories(auxiliary: Mapping[str, Any], tested: list[str]) -> list[str]:
    """Return the categories to learn from, and refuse those that are tested."""
    wanted = auxiliary.get("categories", OTHERS)
    chosen = choose_categories(build_datamodule(auxiliary["datamodule"]), ALL if wanted == OTHERS else wanted)
    if wanted == OTHERS:
        chosen = [category for category in chosen if category not in tested]
    if both := [category for category in chosen if category in tested]:
        msg = f"auxiliary has the category '{both[0]}', which is tested: leave `categories` out for all others."
        raise ValueError(msg)
    if not chosen:
        msg = f"auxiliary has no category but those that are tested ({', '.join(tested)}): name another datamodule."
        raise ValueError(msg)
    return chosen


def _refuse_known_images(
    data: Mapping[str, AuxiliaryCategory], settings: JobSettings, datamodule: AnomalibDataModule
) -> None:
    """Refuse auxiliary images among the data of the tested categories: the same file, or one with the same pixels."""
    if isinstance(datamodule, FewShot):  # the images that are no shots are the target's, too
        datamodule = FewShot(settings.data["init_args"]["datamodule"], datamodule.categories, k_shot=None)
    datamodule.setup()
    subsets = [vars(datamodule).get(name) for name in SUBSETS]
    whites = {path: white_of(part) for part in subsets if isinstance(part, AnomalibDataset) for path in _files(part)}
    known = {path.resolve(): path for path in whites}
    sizes: dict[tuple[int, int], list[Path]] = {}
    for path in whites:
        sizes.setdefault(turned_size(path), []).append(path)
    pixels: dict[str, Path] = {}
    for category, parts in data.items():
        for path, white in ((path, white_of(part)) for part in parts for path in _files(part)):
            same, size = known.get(path.resolve()), turned_size(path)
            pixels |= {image_digest(each, whites[each]): each for each in sizes.get(size, ())}
            if size in sizes:  # of images of other sizes nothing but the heads is read
                sizes[size] = []
                same = same or pixels.get(image_digest(path, white))
            if same is not None:
                msg = (
                    f"The auxiliary image '{path}' is the image '{same}' of the data that are tested: take the "
                    f"category '{category}' out of `auxiliary`."
                )
                raise ValueError(msg)


def _path(settled: list[object], name: str, data: Mapping[str, AuxiliaryCategory]) -> Path:
    """Return the file for the learned state of a method: its name follows from the data and all that is settled."""
    images = {
        category: [
            (_digest(path), int(label), mask and _digest(Path(mask)))
            for part in parts
            for path, label, mask in zip(_files(part), part.samples.label_index, _masks(part), strict=True)
        ]
        for category, parts in data.items()
    }
    digest = hashlib.sha256(json.dumps([__version__, *settled, images], sort_keys=True, default=str).encode())
    return cache_folder() / "preparations" / f"{name}-{digest.hexdigest()[:16]}.safetensors"


def _files(dataset: AnomalibDataset) -> Iterator[Path]:
    return map(Path, dataset.samples.image_path)


def _masks(dataset: AnomalibDataset) -> list[str]:
    """Return the masks' files, an empty text where there is none."""
    samples = dataset.samples
    masks = samples.mask_path if "mask_path" in samples else [""] * len(samples)
    return [mask if isinstance(mask, str) else "" for mask in masks]


def _digest(path: Path) -> str:
    """Return the digest of a file's content, read once per process unless the file changes."""
    state = path.stat()
    return _digest_of(path, state.st_mtime_ns, state.st_size)


@cache
def _digest_of(path: Path, *_state: int) -> str:
    return digest_of(path)
