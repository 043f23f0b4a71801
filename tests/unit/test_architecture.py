# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Who imports whom: every module of the package is parsed, and none is excepted."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import anople_anomalib

PACKAGE = Path(anople_anomalib.__file__).parent
NAME = PACKAGE.name
FRONT_DOOR = "front door"  # the modules in the root
LAYERS = (  # from the bottom; what stands side by side does not import each other
    {"utils"},
    {"backbones", "data", "metrics"},
    {"config"},
    {"presets"},
    {"method"},
    {"tiles"},
    {"training"},
    {"deployment"},
    {"anople", "baselines"},
    {"pipeline", "visualization"},
    {"report"},  # of what a pipeline has written
    {"app"},
    {"commands"},
    {"plugin"},
    {FRONT_DOOR},
)
HEIGHT = {room: height for height, layer in enumerate(LAYERS) for room in layer}
ROOT_FILES = 4
KNOW_OPEN_CLIP = {"backbones/clip.py", "backbones/clip_loading.py"}
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


class Import(NamedTuple):
    """One imported name.

    Attributes:
        line: Line of the statement.
        level: Number of dots in front.
        name: What is imported, in full: ``anople_anomalib.method.views.resize``.
    """

    line: int
    level: int
    name: str


def folder_of(module: str) -> str:
    """Dotted name of the package that a file lies in."""
    return ".".join((NAME, *Path(module).parts[:-1]))


def room_of(name: str) -> str:
    """Room of a file, or of an imported name of the package."""
    first = name.split("/" if name.endswith(".py") else ".")[0].removesuffix(".py")
    is_room = first in {"anople", "config"} or (PACKAGE / first).is_dir()
    return first if is_room else FRONT_DOOR


def imports_in(source: str, folder: str) -> Iterator[Import]:
    """All imports of a module, those within functions and those for type checkers included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, 0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folder.split(".")[: len(folder.split(".")) + 1 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (Import(node.lineno, node.level, f"{origin}.{alias.name}") for alias in node.names)


@functools.cache
def imports_of(module: str) -> list[Import]:
    """Imports of a file of the package."""
    return list(imports_in((PACKAGE / module).read_text(encoding="utf-8"), folder_of(module)))


def inside(name: str, package: str) -> bool:
    """Whether a dotted name is the package, or something in it."""
    return f"{name}.".startswith(f"{package}.")


def test_every_room_has_a_place() -> None:
    rooms = {room_of(module) for module in MODULES}
    assert rooms <= HEIGHT.keys(), "a new room: say in LAYERS where it stands"
    assert {"method", "training", "anople", FRONT_DOOR} <= rooms


def test_imports_go_down() -> None:
    upward = []
    for module in MODULES:
        own = room_of(module)
        for line, _, name in imports_of(module):
            other = room_of(name.removeprefix(NAME).removeprefix("."))
            if inside(name, NAME) and other != own and HEIGHT[other] >= HEIGHT[own]:
                upward.append(f"{module}:{line}: {own} may not import {name} ({other})")
    assert not upward


def test_imports_are_relative_within_a_folder_and_absolute_beyond() -> None:
    named = [(module, *each) for module in MODULES for each in imports_of(module)]
    assert not [f"{module}:{line}: name {name} from the package on" for module, line, level, name in named if level > 1]
    beside = [each for each in named if each[2] == 0 and inside(each[3], folder_of(each[0]))]
    assert not [f"{module}:{line}: import {name} relatively" for module, line, _, name in beside]


def test_root_is_small() -> None:
    root = [module for module in MODULES if "/" not in module]
    assert len(root) <= ROOT_FILES, f"{root}: give them a room"


def test_one_room_knows_open_clip() -> None:
    knows = {module for module in MODULES if any(inside(name, "open_clip") for _, _, name in imports_of(module))}
    assert knows == KNOW_OPEN_CLIP


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module) == "method"])
def test_method_knows_no_lightning_and_no_datamodule(module: str) -> None:
    for line, _, name in imports_of(module):
        engine = inside(name, "lightning") or inside(name, "pytorch_lightning") or inside(name, "anomalib.engine")
        assert not engine, f"{module}:{line}: the method does not know who trains it ({name})"
        assert not name.endswith("DataModule"), f"{module}:{line}: the method does not know where images come from"


def test_imports_are_found_in_every_form() -> None:
    source = """
import open_clip
from . import views
from .views import resize
from anople_anomalib.data import FewShot
def late():
    from ..data.sampling import draw_shots
"""
    found = {(level, name) for _, level, name in imports_in(source, f"{NAME}.method")}
    assert found == {
        (0, "open_clip"),
        (1, f"{NAME}.method.views"),
        (1, f"{NAME}.method.views.resize"),
        (0, f"{NAME}.data.FewShot"),
        (2, f"{NAME}.data.sampling.draw_shots"),
    }


PATCHES = {  # places that change objects of other packages, each a row of docs/architecture.md
    "backbones/package_weights.py": 1,
    "commands/terminal.py": 1,
    "metrics/per_category.py": 1,
    "plugin/discovery.py": 1,
    "plugin/registration.py": 2,
    "training/run.py": 1,
    "training/shots.py": 1,
}
PATCH = re.compile(
    r"replaced\((?!pl_module|owner)|setattr\((?!self|owner|parent)|\.__class__ = |register_model\(\w"
    r"|sys\.meta_path\.insert|PIPELINE_REGISTRY\["
    r"|^\s+(?:trainer|datamodule|strategy|callback|Image|constants|torch|socket|warnings|logging|sys|cli)"
    r"\.(?!should_stop)[\w.]+(?:\[\w+\])? = ",  # should_stop is Lightning's own signal
    re.MULTILINE,
)


def patches_in(source: str) -> int:
    """Number of statements that change, or register something with, an object of another package."""
    return len(PATCH.findall(source))


def test_other_packages_objects_are_changed_in_known_places_alone() -> None:
    found = {module: patches_in((PACKAGE / module).read_text(encoding="utf-8")) for module in MODULES}
    assert {module: number for module, number in found.items() if number} == PATCHES


def test_patches_are_found_in_every_form() -> None:
    source = """
    trainer.callbacks = []
    setattr(host, name, cls)
    host.__class__ = Host
    changes.enter_context(replaced(datamodule, "train_data", shots))
    PIPELINE_REGISTRY[name] = pipeline
    sys.excepthook = hook
    """
    assert patches_in(source) == 6
