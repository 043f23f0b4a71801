# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Discovery by the real anomalib, from real installations of the plugin, in processes of their own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

import anople_anomalib

Run = Callable[..., subprocess.CompletedProcess[str]]

API = """
import sys
import anomalib.data
import anomalib.models
from anomalib.cli.pipelines import PIPELINE_REGISTRY
from anomalib.data import get_datamodule
from anomalib.models import get_model, list_models

arguments = {"backbone": "anople-tiny", "pretrained": "random", "k_shot": 2}
model = get_model("ano_p_le", **arguments)
assert type(model) is anomalib.models.AnoPLe is anomalib.models.image.AnoPLe
assert type(get_model({"class_path": "AnoPLe", "init_args": arguments})) is type(model)
assert type(get_model({"class_path": "anomalib.models.AnoPLe"}, **arguments)) is type(model)
assert {"ano_p_le", "fast_recon"} <= list_models()
assert "AnoPLe" in anomalib.models.__all__
assert {"FewShot", "SampleTextures"} <= set(anomalib.data.__all__)
few_shot = {"datamodule": "SampleTextures", "categories": ["brick"], "k_shot": 1}
assert type(get_datamodule({"class_path": "FewShot", "init_args": few_shot})) is anomalib.data.FewShot
textures = {"class_path": "SampleTextures", "init_args": {"category": "brick"}}
assert type(get_datamodule(textures)) is anomalib.data.SampleTextures
from anople_anomalib import AnoPLe
from anople_anomalib.data import FewShot, SampleTextures
from anople_anomalib.pipeline import FewShotPipeline
assert AnoPLe is type(model)
assert (anomalib.data.FewShot, anomalib.data.SampleTextures) == (FewShot, SampleTextures)
assert PIPELINE_REGISTRY["fewshot"] is FewShotPipeline
print(sys.modules["anople_anomalib"].__file__)
"""
WITHOUT_PTH = "sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != 'AnoPLeAutoload']"
# Third-party imports take nearly all of the time: they are made once, then one copy of the process tries each order.
ORDERS = """
import os, sys, warnings
import cv2, kornia, lightning.pytorch, open_clip, pandas, scipy, sklearn, skimage, timm, torchmetrics, torchvision

def check(first):
    warnings.simplefilter("error", RuntimeWarning)
    exec(first)
    import anomalib.data, anomalib.models
    assert "AnoPLe" in anomalib.models.__all__, first
    assert {"FewShot", "SampleTextures"} <= set(anomalib.data.__all__), first
    assert "ano_p_le" in anomalib.models.list_models(), first

for first in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            check(first)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    print(first, "works" if status == 0 else "FAILS")
"""


class Installation:
    """A virtual environment that shares the libraries of the tests and has the plugin of its own.

    Args:
        root: Where to make it.
        run_python: Runs a Python process.
    """

    def __init__(self, root: Path, run_python: Run) -> None:
        venv.create(root, with_pip=False, symlinks=os.name != "nt")
        paths = sysconfig.get_paths(vars={"base": str(root), "platbase": str(root)})
        self.python = Path(paths["scripts"]) / Path(sys.executable).name
        self.site_packages = Path(paths["purelib"])
        self._run_python = run_python
        libraries = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        # Its name puts it after the plugin's own files. The .pth files of those folders themselves are not read.
        (self.site_packages / "zz_libraries.pth").write_text("\n".join(libraries))

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run this environment's Python outside the source tree."""
        return self._run_python(*arguments, python=self.python, cwd=self.site_packages.parent)

    def pip(self, *arguments: str | Path) -> None:
        """Run pip for this environment, without a network."""
        process = self._run_python("-m", "pip", "--python", self.python, "--disable-pip-version-check", *arguments)
        assert process.returncode == 0, process.stderr

    def install(self, *source: str | Path) -> None:
        """Install the plugin alone."""
        self.pip("install", "--no-deps", "--no-index", "--no-build-isolation", *source)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, repository: Path, run_python: Run) -> Installation:
    """An environment with a normal installation of the plugin."""
    installation = Installation(tmp_path_factory.mktemp("normal"), run_python)
    installation.install(repository)
    return installation


def test_anomalib_knows_the_installed_plugin(installation: Installation) -> None:
    process = installation.run("-I", "-c", API)
    assert process.returncode == 0, process.stderr
    assert Path(process.stdout.split()[-1]).is_relative_to(installation.site_packages)


def test_installation_holds_every_file_of_the_package(installation: Installation, repository: Path) -> None:
    def files(folder: Path) -> set[Path]:
        paths = (path.relative_to(folder) for path in (folder / "anople_anomalib").rglob("*") if path.is_file())
        return {path for path in paths if not any(part.startswith((".", "__pycache__")) for part in path.parts)}

    assert files(installation.site_packages) == files(repository)
    assert Path("anople_anomalib/py.typed") in files(repository)


def test_editable_installation_is_found_as_well(tmp_path: Path, repository: Path, run_python: Run) -> None:
    installation = Installation(tmp_path, run_python)
    installation.install("--editable", repository)
    process = installation.run("-I", "-c", "import anomalib, sys; print(sys.modules['anople_anomalib'].__file__)")
    assert process.returncode == 0, process.stderr
    assert Path(process.stdout.strip()).is_relative_to(repository / "anople_anomalib")


def test_command_line_knows_the_installed_plugin(installation: Installation) -> None:
    command = shutil.which("anomalib", path=str(Path(sys.executable).parent))
    process = installation.run(command, "train", "--model.help", "AnoPLe")
    assert process.returncode == 0, process.stderr
    assert "--model.k_shot" in process.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="copies the process for each order")
def test_every_order_of_imports_works(installation: Installation) -> None:
    orders = [
        "import anomalib.data",
        "import anomalib.models",
        "import anomalib.cli.cli",
        "from anople_anomalib import AnoPLe",
        "from anople_anomalib.data import FewShot",
        "from anople_anomalib.pipeline import FewShotPipeline",
        f"{WITHOUT_PTH}; import anomalib.cli.cli; import anople_anomalib",
        f"{WITHOUT_PTH}; from anople_anomalib import AnoPLe",
    ]
    process = installation.run("-c", ORDERS, *orders)
    assert process.returncode == 0, process.stderr
    assert "FAILS" not in process.stdout, process.stdout + process.stderr
    assert process.stdout.count("works") == len(orders)


def test_imports_load_no_more_than_they_need(installation: Installation) -> None:
    code = """
import sys, anople_anomalib
print({"anomalib", "torch", "numpy"} & {*sys.modules})
from anople_anomalib import AnoPLe
ours = [name for name in sys.modules if name.startswith("anople_anomalib")]
print(len(ours) <= 60, [name for name in ours if "baselines" in name or "pipeline" in name])
"""
    assert installation.run("-c", code).stdout.splitlines() == ["set()", "True []"]


def test_whole_images_need_no_tiles(tmp_path: Path, repository: Path, run_python: Run) -> None:
    """AnoPLe learns, judges, is saved and restored where the folder of tiles is not there."""
    package = shutil.copytree(repository / "anople_anomalib", tmp_path / "anople_anomalib")
    shutil.rmtree(package / "tiles")
    code = """
import torch, anople_anomalib
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from torch.utils.data import DataLoader
quick = {"training": {"epochs": 1}, "memory": {"turns": "none"}}
model = anople_anomalib.AnoPLe("offline", visualizer=False, **quick)
shots = DataLoader([torch.rand(3, 96, 96)], collate_fn=lambda images: ImageBatch(image=torch.stack(images)))
Engine(default_root_dir=".", logger=False, accelerator="cpu", barebones=False).fit(model, train_dataloaders=shots)
model.save_checkpoint("model.ckpt")
restored = anople_anomalib.AnoPLe.load_from_checkpoint("model.ckpt", visualizer=False).eval()
image = torch.rand(1, 3, 96, 96)
assert torch.equal(restored(image).anomaly_map, model.eval()(image).anomaly_map)
print(anople_anomalib.__file__)
"""
    process = run_python("-c", code, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert Path(process.stdout.split()[-1]).is_relative_to(package)


def test_version_is_that_of_the_distribution(installation: Installation) -> None:
    version = "importlib.metadata.version('anople-anomalib')"
    process = installation.run("-c", f"import importlib.metadata; print({version})")
    assert process.stdout.strip() == anople_anomalib.__version__


def test_uninstalling_leaves_nothing(tmp_path: Path, repository: Path, run_python: Run) -> None:
    installation = Installation(tmp_path, run_python)
    before = {path.name for path in installation.site_packages.iterdir()}
    installation.install(repository)
    assert (installation.site_packages / "anople_anomalib_autoload.pth").is_file()
    installation.pip("uninstall", "--yes", "anople-anomalib")
    assert {path.name for path in installation.site_packages.iterdir()} == before
    code = "import sys; print([name for name in sys.modules if 'anople' in name])"
    process = installation.run("-W", "error", "-c", code)
    assert (process.returncode, process.stdout.strip(), process.stderr) == (0, "[]", "")
