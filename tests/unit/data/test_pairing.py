# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Which mask belongs to which image."""

from pathlib import Path

import pytest

from anople_anomalib.data.pairing import pair_masks


def pairs(images: list[str], masks: list[str], folders: list[tuple[str, str]] | None = None) -> dict[str, str]:
    known = [(Path("/d", image), Path("/d", mask)) for image, mask in folders or []]
    found = pair_masks([Path("/d", image) for image in images], [Path("/d", mask) for mask in masks], known)
    return {image.relative_to("/d").as_posix(): mask.relative_to("/d").as_posix() for image, mask in found.items()}


@pytest.mark.parametrize(
    ("images", "masks", "folders"),
    [
        (["bad/0.png", "bad/1.jpg"], ["mask/0.png", "mask/1.png"], None),
        (["bad/0.png", "bad/10.png"], ["mask/0_mask.png", "mask/10_mask.png"], None),
        (["bad/a1.png", "bad/1.png"], ["mask/a1_gt.png", "mask/mask_1.png"], None),
        (["test/hole/0.png", "test/cut/0.png"], ["gt/hole/0_mask.png", "gt/cut/0_mask.png"], None),
        (["a/0.png", "b/0.png"], ["m_z/0.png", "m_b/0.png"], [("a", "m_z"), ("b", "m_b")]),
        (["a/x/0.png", "a/y/0.png", "b/0.png"], ["m/x/0.png", "m/y/0.png", "n/0.png"], [("a", "m"), ("b", "n")]),
        (["a/0.png", "b/1.png"], ["z/0.png", "y/1.png"], None),
    ],
)
def test_name_and_folder_tell(images: list[str], masks: list[str], folders: list[tuple[str, str]] | None) -> None:
    expected = dict(zip(images, masks, strict=True))
    assert pairs(images, masks[::-1], folders) == expected


@pytest.mark.parametrize(
    ("images", "masks", "said"),
    [
        (["bad/0.png"], ["mask/10.png"], "bad/0.png' has no mask: none has its name"),
        (["bad/0.png", "bad/1.png"], ["mask/0.png"], "bad/1.png' has no mask"),
        (["a/0.png", "b/0.png"], ["m/0.png", "n/0.png"], "not clear which mask belongs to .*a/0.png': .*m/0.png"),
        (["a/0.png", "a/0.jpg"], ["m/0.png", "m/7.png"], "0.png' and .*0.jpg' have the same mask .*m/0.png"),
    ],
)
def test_what_is_not_clear_is_refused_by_name(images: list[str], masks: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pairs(images, masks)
