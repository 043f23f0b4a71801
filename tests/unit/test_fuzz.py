# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Sizes, modes, batch shapes, precisions and extreme values at random: shapes are right and values in range."""

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from anople_anomalib.data.image_reading import open_image
from anople_anomalib.method.anomaly_simulation import PixelAnomalySimulator, simulate_latent_anomalies
from anople_anomalib.method.decoder import Decoder, LocalFeatures
from anople_anomalib.method.fusion import PaperFusion, fuse
from anople_anomalib.method.loss import AnoPLeLoss
from anople_anomalib.method.memory_bank import MemoryBank
from anople_anomalib.method.views import cut_masks, cut_views, double, num_views
from anople_anomalib.metrics.score_counts import METRICS, CategoryScores
from anople_anomalib.utils.transforms import resize

settings.register_profile(
    "house",
    max_examples=12,
    deadline=None,  # times say nothing on a busy machine
    derandomize=True,  # the same examples on every run
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("house")

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
BATCHES = st.integers(1, 3)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
LEVELS = st.sampled_from(["random", 0.0, 0.5, 1.0])  # of an image or a map: grainy, or constant
SEEDS = st.integers(0, 2**16)


def field(shape: tuple[int, ...], level: str | float, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values in [0, 1], random or all the same."""
    if level == "random":
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return torch.full(shape, level, dtype=dtype)


def assert_within(values: torch.Tensor, low: float, high: float) -> None:
    assert values.isfinite().all()
    assert low <= values.min() <= values.max() <= high


@given(SIZES, SIZES, BATCHES, st.booleans(), DTYPES, LEVELS, SEEDS)
def test_views(image: tuple, size: tuple, batch: int, multi_view: bool, dtype: torch.dtype, level: float, seed: int):  # noqa: ANN201
    images = field((batch, 3, *image), level, seed, dtype)
    views = cut_views(images, size, multi_view)
    assert views.shape == (batch, num_views(multi_view), 3, *size)
    assert views.dtype == dtype
    assert_within(views, -0.3, 1.3)  # bicubic interpolation overshoots at edges
    assert torch.equal(views[:, -1], resize(images, size))


@given(SIZES, BATCHES, st.booleans(), st.integers(0, 2**20))
def test_the_views_of_a_mask_lose_no_pixel(size: tuple, batch: int, multi_view: bool, place: int) -> None:
    masks = torch.zeros(batch, 1, *double(size))
    masks.view(-1)[place % masks.numel()] = 1
    views = cut_masks(masks, size, multi_view)
    assert views.shape == (batch, num_views(multi_view), *size)
    assert views.flatten(2).amax(dim=2).sum() == (2 if multi_view else 1)  # the whole image, and one of its crops
    assert set(views.unique().tolist()) <= {0, 1}


@given(st.tuples(st.integers(32, 96), st.integers(32, 96)), BATCHES, st.floats(0, 1), LEVELS, SEEDS)
def test_pixel_anomalies(size: tuple, batch: int, probability: float, level: float, seed: int) -> None:
    images = field((batch, 3, *size), level, seed)
    torch.manual_seed(seed)
    damaged, masks = PixelAnomalySimulator(probability=probability)(images)
    assert damaged.shape == images.shape
    assert masks.shape == (batch, 1, *size)
    assert_within(damaged, 0, 1)
    assert set(masks.unique().tolist()) <= {0, 1}
    assert torch.equal(damaged * (1 - masks), images * (1 - masks))


@given(BATCHES, st.integers(1, 64), st.floats(0, 10), DTYPES)
def test_latent_anomalies(batch: int, width: int, sigma: float, dtype: torch.dtype) -> None:
    embeddings = torch.nn.functional.normalize(torch.randn(batch, width), dim=-1).to(dtype)
    anomalies = simulate_latent_anomalies(embeddings, sigma)
    assert anomalies.shape == embeddings.shape
    assert anomalies.dtype == dtype
    torch.testing.assert_close(anomalies.float().norm(dim=-1), torch.ones(batch), atol=0.02, rtol=0)


@given(st.tuples(st.integers(1, 5), st.integers(1, 5)), BATCHES, st.integers(1, 4), DTYPES, st.floats(0, 1e4))
def test_decoder(grid: tuple, batch: int, upsampling: int, dtype: torch.dtype, scale: float) -> None:
    decoder = Decoder(24, 8, hidden_dim=4, upsampling=upsampling).to(dtype)
    features = decoder(scale * torch.randn(batch, grid[0] * grid[1], 24, dtype=dtype), grid).dense()
    assert features.shape == (batch, 8, upsampling * grid[0], upsampling * grid[1])
    assert features.isfinite().all()


@given(SIZES, BATCHES, LEVELS, LEVELS, DTYPES, SEEDS)
def test_fusion_and_score(size: tuple, batch: int, one: float, other: float, dtype: torch.dtype, seed: int) -> None:
    first, second = field((batch, *size), one, seed, dtype), field((batch, *size), other, seed + 1, dtype)
    fused = fuse(first, second)
    assert fused.dtype == dtype
    assert_within(fused, 0, 0.505)
    assert (fused <= torch.minimum(first, second) * 1.01).all()
    assert_within(PaperFusion().score(field((batch,), one, seed, dtype), fused), 0, 0.505)


@given(BATCHES, st.integers(1, 9), st.integers(1, 50), st.integers(1, 9), st.floats(0, 1e6), DTYPES)
def test_memory(batch: int, patches: int, rows: int, width: int, scale: float, dtype: torch.dtype) -> None:
    bank, queries = MemoryBank(width), scale * torch.randn(batch, patches, width)
    bank.build(torch.randn(rows, width))
    distances = bank(queries.to(dtype))
    assert distances.shape == (batch, patches)
    assert_within(distances, 0, 1)
    bank.extend(queries)
    assert len(bank) == rows + batch * patches
    if scale > 1e-3:  # else there is no direction to compare
        assert_within(bank(queries), 0, 1e-5)  # a memory that contains the query


@given(SIZES, st.integers(1, 3), st.sampled_from(["none", "one pixel", "all"]), LEVELS, SEEDS)
def test_losses(size: tuple, views: int, anomalous: str, level: float, seed: int) -> None:
    masks = torch.full((views, *size), int(anomalous == "all"))
    if anomalous == "one pixel":
        masks[0, -1, -1] = 1
    saturated = 100 * (2 * field((views, 2, 3, 4), level, seed) - 1)  # as large as CLIP's logits get
    features = field((views, 8, 3, 4), level, seed).requires_grad_()
    losses = AnoPLeLoss()(
        masks=masks,
        image_embeddings=torch.nn.functional.normalize(field((views, 8), level, seed), dim=-1),
        image_logits=saturated[:, :, 0, 0],
        latent_logits=saturated[masks.flatten(1).amax(dim=1) == 0][:, :, 0, 0],
        local_features=LocalFeatures.of(features),
        pixel_logits=saturated,
    )
    assert losses.keys() == {"image_loss", "pixel_loss", "align_loss"}
    assert all(loss.isfinite() and loss >= 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert features.grad.isfinite().all()


@given(SIZES, BATCHES, LEVELS, st.sampled_from(["none", "one pixel", "all"]), DTYPES, SEEDS)
def test_metrics(size: tuple, batch: int, level: float, anomalous: str, dtype: torch.dtype, seed: int) -> None:
    masks = torch.full((batch + 1, *size), anomalous == "all")
    if anomalous == "one pixel":
        masks[0, 0, 0] = True
    maps = field((batch + 1, *size), level, seed, dtype)
    counted = CategoryScores()
    truth = masks.flatten(1).any(dim=1)
    counted.update_images(maps.flatten(1).amax(dim=1), truth, truth)
    counted.update_pixels(maps, masks, masks)
    values, reasons = counted.compute(METRICS)
    assert values.keys() | reasons.keys() == set(METRICS)
    assert bool(reasons) == (anomalous == "none" or bool(masks.all()) or bool(truth.all()))
    for value in values.values():
        assert_within(value, 0, 1)


@given(SIZES, st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"]), SEEDS)
def test_images(tmp_path_factory: object, size: tuple, mode: str, seed: int) -> None:
    path = tmp_path_factory.mktemp("images") / "image.tiff"
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    if mode in {"I", "I;16"}:
        image = Image.fromarray(pixels.astype(np.int32 if mode == "I" else np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(pixels.astype(np.float32) / 255)
    else:
        image = Image.fromarray(np.stack([pixels] * 3, axis=-1)).convert(mode)
    if mode in {"HSV", "YCbCr", "LA"}:
        image = image.convert("RGB")  # TIFF knows no such mode
    image.save(path)
    read = np.asarray(open_image(path).convert("L"), dtype=int)
    assert read.shape == size
    if mode not in {"1", "P", "YCbCr", "HSV"}:
        assert np.abs(read - pixels).max() <= 1
