# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What training runs through anomalib's own engine do with the data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import ImageBatch
from lightning.pytorch import Callback
from PIL import Image, ImageFilter
from torch.testing import assert_close
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose, Normalize, RandomHorizontalFlip, Resize, Transform
from torchvision.transforms.v2.functional import to_dtype, to_image

from anople_anomalib.anople import AnoPLe
from anople_anomalib.data import FewShot, Parts
from anople_anomalib.data.listing import each_image
from anople_anomalib.utils.transforms import resize
from helpers.folders import SIZE, write_category
from helpers.miniature import IMAGE_SIZE
from helpers.training import Recorder, assert_finalized, make_datamodule, make_engine, make_model, read

DOUBLE = (2 * IMAGE_SIZE[0], 2 * IMAGE_SIZE[1])


def test_without_a_validation_set(mvtec: Path, tmp_path: Path) -> None:
    model, datamodule = make_model(), make_datamodule(mvtec, val_split_mode="none")
    engine = make_engine(tmp_path)
    results = engine.train(model, datamodule=datamodule)
    assert "image_AUROC" in results[0]
    assert_finalized(model, read(engine.best_model_path)["state_dict"])


def test_without_a_datamodule(tmp_path: Path) -> None:
    recorder, model = Recorder(), make_model()
    images = torch.rand(4, 3, 100, 80)
    loader = DataLoader(list(images), batch_size=2, collate_fn=lambda batch: ImageBatch(image=torch.stack(batch)))
    engine = make_engine(tmp_path, [recorder])
    engine.fit(model, train_dataloaders=loader)
    assert len(recorder.losses) == 4
    assert model.class_names == ["object"]
    assert len(model.model.memory_bank) == 4 * 16
    assert_finalized(model, read(engine.best_model_path)["state_dict"])


@pytest.mark.parametrize("fails", [False, True], ids=["finished", "failed"])
def test_the_training_set_of_the_datamodule_is_restored(mvtec: Path, tmp_path: Path, fails: bool) -> None:
    class Fail(Callback):
        def on_train_batch_end(self, *_args: object) -> None:
            raise ArithmeticError

    datamodule = make_datamodule(mvtec)
    engine = make_engine(tmp_path, [Fail()] if fails else [])
    if fails:
        with pytest.raises(ArithmeticError):
            engine.fit(make_model(), datamodule=datamodule)
    else:
        engine.fit(make_model(), datamodule=datamodule)
    assert len(datamodule.train_data) == 3
    (batch,) = datamodule.train_dataloader()
    assert batch.image.shape == (3, 3, *IMAGE_SIZE)
    second = make_model(k_shot=3)
    make_engine(tmp_path).fit(second, datamodule=datamodule)
    assert len(second.drawn_samples["bottle"]) == 3


def test_training_images_are_as_sharp_as_their_files(mvtec: Path, tmp_path: Path) -> None:
    """They are resized once, to twice the model's size, not by way of the model's size."""
    recorder, model, datamodule = Recorder(), make_model(epochs=1), make_datamodule(mvtec)
    make_engine(tmp_path, [recorder], limit_val_batches=0).fit(model, datamodule=datamodule)
    file = Image.open(mvtec / "bottle" / "train" / "good" / recorder.paths[0]).convert("RGB")
    assert_close(recorder.images[0], resize(to_dtype(to_image(file), torch.float32, scale=True), DOUBLE)[None])


def test_augmentations_of_the_user_come_first(mvtec: Path, tmp_path: Path) -> None:
    sizes = set()

    class Brighten(Transform):
        def transform(self, inpt: Any, params: dict) -> Any:
            del params
            sizes.add(tuple(inpt.shape[-2:]))
            return inpt * 0 + 1

    recorder = Recorder()
    augmentations = Compose([Brighten(), RandomHorizontalFlip(1)])
    model = make_model(epochs=1)
    datamodule = make_datamodule(mvtec, train_augmentations=augmentations)
    make_engine(tmp_path, [recorder], limit_val_batches=0).fit(model, datamodule=datamodule)
    assert_close(recorder.images[0], torch.ones(1, 3, *DOUBLE))
    assert sizes == {SIZE}


def test_the_memory_is_not_augmented(mvtec: Path, tmp_path: Path) -> None:
    banks = []
    for augmentations in (None, RandomHorizontalFlip(1)):
        model = make_model(epochs=1, prompt_lr=0, decoder_lr=0)
        datamodule = make_datamodule(mvtec, train_augmentations=augmentations)
        make_engine(tmp_path, limit_val_batches=0).fit(model, datamodule=datamodule)
        banks.append(model.model.memory_bank.features)
    assert torch.equal(*banks)


def test_memory_is_that_of_the_plain_shots(mvtec: Path, tmp_path: Path) -> None:
    """The bank holds what a test image would give: a shot is at distance 0 of it."""
    model, datamodule = make_model(), make_datamodule(mvtec)
    make_engine(tmp_path).fit(model, datamodule=datamodule)
    (name,) = model.drawn_samples["bottle"]
    (index,) = [i for i, path in enumerate(datamodule.train_data.samples.image_path) if Path(path).name == name]
    image = datamodule.train_data[index].image.unsqueeze(0)  # resized to the model's size, as a test image
    with torch.no_grad():
        features = model.model.first_features(model.pre_processor(image)).features
        assert model.model.memory_bank(features).max() < 1e-5


def test_training_depends_on_its_own_seed_alone(mvtec: Path, tmp_path: Path) -> None:
    states = []
    for training_seed, global_seed in ((3, 1), (3, 2), (4, 1)):
        torch.manual_seed(global_seed)
        model = make_model(k_shot=2, training={"seed": training_seed})
        torch.manual_seed(global_seed)
        make_engine(tmp_path, limit_val_batches=0).fit(model, datamodule=make_datamodule(mvtec))
        states.append(model.model.state_dict())
    first, second, other = states
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["prompt_learner.text_prompts"], other["prompt_learner.text_prompts"])


@pytest.mark.parametrize("size", [IMAGE_SIZE, (48, 80)], ids=["model_size", "other_size"])
def test_a_custom_pre_processor(mvtec: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    pre_processor = make_model().configure_pre_processor(size, mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.1))
    recorder, model = Recorder(), make_model(pre_processor=pre_processor, epochs=1)
    seen = []
    model.model.register_forward_hook(lambda _module, args, _output: seen.append(args[0]))
    engine = make_engine(tmp_path, [recorder])
    engine.train(model, datamodule=make_datamodule(mvtec))
    assert recorder.images[0].shape == (1, 3, *DOUBLE)
    assert recorder.images[0].min() >= 0
    assert seen[0].shape == (4, 3, *size)
    assert seen[0].min() < -0.5  # (gray - 0.5) / 0.1
    assert_finalized(model, read(engine.best_model_path)["state_dict"])


def test_without_a_pre_processor(mvtec: Path, tmp_path: Path) -> None:
    recorder, model = Recorder(), make_model(pre_processor=False, epochs=1)
    engine = make_engine(tmp_path, [recorder])
    results = engine.train(model, datamodule=make_datamodule(mvtec))
    assert recorder.images[0].shape == (1, 3, *DOUBLE)
    assert "image_AUROC" in results[0]
    assert_finalized(model, read(engine.best_model_path)["state_dict"])


def test_evaluation_images_are_pre_processed_once(mvtec: Path, tmp_path: Path) -> None:
    model, datamodule, seen = make_model(epochs=1), make_datamodule(mvtec), []
    model.model.register_forward_hook(lambda _module, args, _output: seen.append(args[0]))
    engine = make_engine(tmp_path)
    engine.fit(model, datamodule=datamodule)
    engine.test(model, datamodule=datamodule)
    engine.predict(model, datamodule=datamodule)
    resize, normalize = model.pre_processor.transform.transforms
    assert isinstance(resize, Resize)
    assert isinstance(normalize, Normalize)
    expected = normalize(torch.stack([item.image for item in datamodule.test_data]))
    assert len(seen) == 3
    assert all(torch.equal(images, expected) for images in seen)


def test_training_is_the_same_to_the_bit_with_any_number_of_workers(mvtec: Path, tmp_path: Path) -> None:
    outcomes = []
    for run, num_workers in enumerate((0, 0, 2)):
        model, engine = make_model(k_shot=3, prompt_lr=0.1), make_engine(tmp_path / str(run))
        results = engine.train(model, datamodule=make_datamodule(mvtec, num_workers=num_workers))
        predictions = engine.predict(model, datamodule=make_datamodule(mvtec, num_workers=num_workers))
        outcomes.append((model.state_dict(), results, torch.cat([batch.anomaly_map for batch in predictions])))
    for state, results, maps in outcomes[1:]:
        assert all(torch.equal(value, outcomes[0][0][name]) for name, value in state.items())
        assert results == outcomes[0][1]
        assert torch.equal(maps, outcomes[0][2])


def test_the_seeds_of_shots_and_training_are_separate(mvtec: Path, tmp_path: Path) -> None:
    """Another draw of the same shots, all of them, is the same training run; another run has the same shots."""
    outcomes = {}
    for seed, training_seed in ((0, 0), (1, 0), (0, 1)):
        model = make_model(k_shot=3, seed=seed, training={"seed": training_seed, "epochs": 1})
        make_engine(tmp_path, limit_val_batches=0).fit(model, datamodule=make_datamodule(mvtec))
        outcomes[seed, training_seed] = (model.drawn_samples, model.model.prompt_learner.text_prompts)
    assert outcomes[0, 0][0] == outcomes[0, 1][0]
    assert torch.equal(outcomes[0, 0][1], outcomes[1, 0][1])
    assert not torch.equal(outcomes[0, 0][1], outcomes[0, 1][1])


def test_a_memory_per_category_knows_whose_shots_it_holds(tmp_path: Path) -> None:
    """In a training run, a restored checkpoint, an export, and for new parts."""
    for category in ("cable", "bottle"):
        write_category(tmp_path, category, train_names=[f"{category} {number}" for number in range(3)])
    datamodule = FewShot(make_datamodule(tmp_path), categories=["cable", "bottle"], k_shot=2)
    model, engine = make_model(per_category=True, fusion="weighted", epochs=1), make_engine(tmp_path)
    engine.fit(model, datamodule=datamodule)
    bank = model.model.memory_bank
    assert bank.lengths.tolist() == [2 * 16, 2 * 16]
    restored = AnoPLe.load_from_checkpoint(engine.best_model_path, visualizer=False).eval()
    for number, category in enumerate(("cable", "bottle")):
        for name in model.drawn_samples[category]:
            ((_, image),) = each_image(tmp_path / category / "train" / "good" / name)
            features = restored.model.first_features(restored.pre_processor.transform(image)).features
            nearest = restored.model.memory_bank.nearest(features)
            assert (nearest // 32 == number).all()
            assert_close(restored.detector().eval()(image).anomaly_map, model.eval()(image).anomaly_map)
    restored.extend_memory_bank(torch.rand(1, 3, *IMAGE_SIZE), category="bottle")
    assert restored.model.memory_bank.lengths.tolist() == [2 * 16, 3 * 16]
    for wrong, message in ((None, "Give one of cable, bottle"), ("screw", "category 'screw'")):
        with pytest.raises(ValueError, match=message):
            restored.extend_memory_bank(torch.rand(1, 3, *IMAGE_SIZE), category=wrong)
    with pytest.raises(ValueError, match=r"memory_bank\.lengths"):
        make_model(fusion="weighted").load_state_dict(restored.state_dict())


def test_one_memory_takes_no_category(mvtec: Path, tmp_path: Path) -> None:
    model = make_model(epochs=1)
    make_engine(tmp_path, limit_val_batches=0).fit(model, datamodule=make_datamodule(mvtec))
    with pytest.raises(ValueError, match="Give no category: the memory is one for all"):
        model.extend_memory_bank(torch.rand(1, 3, *IMAGE_SIZE), category="bottle")


@pytest.fixture
def spawning() -> Iterator[None]:
    """Processes are started anew and inherit nothing, as on Windows and macOS."""
    before = torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method("spawn", force=True)
    yield
    torch.multiprocessing.set_start_method(before, force=True)


@pytest.mark.slow
@pytest.mark.usefixtures("spawning")
def test_spawned_workers_see_the_same_images_and_masks(mvtec: Path, tmp_path: Path) -> None:
    """Masks with soft edges, and images of all kinds."""
    with Image.open(mvtec / "bottle" / "ground_truth" / "hole" / "000_mask.png") as mask:
        mask.filter(ImageFilter.GaussianBlur(4)).save(mask.filename)
    for folder, mode in (("good", "LA"), ("hole", "P")):
        path = mvtec / "bottle" / "test" / folder / "000.png"
        with Image.open(path) as image:
            image.convert(mode).save(path)
    model, engine = make_model(epochs=1), make_engine(tmp_path)
    engine.fit(model, datamodule=Parts(mvtec / "bottle"))
    outcomes = []
    for workers in (0, 1):
        batches = engine.predict(model, datamodule=Parts(mvtec / "bottle", num_workers=workers))
        names = ("image", "gt_mask", "anomaly_map")
        outcomes.append([torch.cat([getattr(batch, name) for batch in batches]) for name in names])
    assert len(outcomes[0][0]) == 4
    assert outcomes[0][1].any()
    for alone, spawned in zip(*outcomes, strict=True):
        assert torch.equal(alone, spawned)
