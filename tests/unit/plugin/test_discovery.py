# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Discovery, in processes that see nothing but a small stand-in for anomalib and the plugin's real discovery files."""

import shutil
import subprocess
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import lazy_loader
import pytest

PTH = "anople_anomalib_autoload.pth"
FILES = {
    "anomalib/__init__.py": "",
    "anomalib/data/__init__.py": """
        class AnomalibDataModule: ...
        __all__ = ["AnomalibDataModule"]
    """,
    "anomalib/models/components.py": """
        import anomalib.data
        class AnomalibModule: ...
    """,
    "anomalib/models/image.py": "__all__ = []",
    "anomalib/models/__init__.py": """
        from anomalib.models import image
        from anomalib.models.components import AnomalibModule
        def list_models(): return [model.__name__ for model in AnomalibModule.__subclasses__()]
        def get_model(name): return {model.__name__: model for model in AnomalibModule.__subclasses__()}[name]()
        __all__ = ["AnomalibModule"]
    """,
    "anomalib/engine.py": """
        from anomalib.models import AnomalibModule
        class Engine: ...
    """,
    "anomalib/cli/__init__.py": "",
    "anomalib/cli/pipelines.py": """
        from anomalib.engine import Engine
        PIPELINE_REGISTRY = {"benchmark": Engine}
    """,
    "anople_anomalib/anople.py": """
        from anomalib.models import AnomalibModule
        from anople_anomalib.method.torch_model import AnoPLeModel
        class AnoPLe(AnomalibModule): ...
    """,
    "anople_anomalib/method/torch_model.py": """
        from anomalib.models.components import AnomalibModule
        class AnoPLeModel: ...
    """,
    "anople_anomalib/data/__init__.py": """
        from anople_anomalib.data.few_shot import FewShot
        from anople_anomalib.data.parts import Parts
        from anople_anomalib.data.sample_textures import SampleTextures
    """,
    "anople_anomalib/method/__init__.py": "",
    "anople_anomalib/backbones/__init__.py": "",  # a zip file has no packages without one
    "anople_anomalib/backbones/package_weights.py": "def register_names(): ...",
    "anople_anomalib/baselines/__init__.py": """
        from anomalib.models.components import AnomalibModule
        class SPADE(AnomalibModule): ...
        class AnomalyGPT(AnomalibModule): ...
        class FastRecon(AnomalibModule): ...
        class InCTRL(AnomalibModule): ...
        class PromptAD(AnomalibModule): ...
        class RegAD(AnomalibModule): ...
        class TinyWinClip(AnomalibModule): ...
    """,
    "anople_anomalib/data/sample_textures/__init__.py": """
        from anomalib.data import AnomalibDataModule
        class SampleTextures(AnomalibDataModule): ...
    """,
    "anople_anomalib/data/few_shot.py": """
        from anomalib.data import AnomalibDataModule
        class FewShot(AnomalibDataModule): ...
    """,
    "anople_anomalib/data/parts.py": """
        from anomalib.data import AnomalibDataModule
        class Parts(AnomalibDataModule): ...
    """,
    "anople_anomalib/pipeline/__init__.py": """
        from anople_anomalib.pipeline.few_shot_pipeline import FewShotPipeline
    """,
    "anople_anomalib/pipeline/few_shot_pipeline.py": """
        from anomalib.engine import Engine
        class FewShotPipeline: ...
    """,
}
CHECK = """
import anomalib.cli.pipelines, anomalib.data, anomalib.models, anomalib.models.image, anople_anomalib
from anople_anomalib.data import FewShot, SampleTextures
from anople_anomalib.pipeline import FewShotPipeline
assert anomalib.models.AnoPLe is anomalib.models.image.AnoPLe is anople_anomalib.AnoPLe
assert (anomalib.data.FewShot, anomalib.data.SampleTextures) == (FewShot, SampleTextures)
models = ["AnoPLe", "AnomalyGPT", "FastRecon", "InCTRL", "PromptAD", "RegAD", "SPADE", "TinyWinClip"]
assert sorted(anomalib.models.__all__) == sorted(["AnomalibModule", *models])
assert sorted(anomalib.data.__all__) == ["AnomalibDataModule", "FewShot", "Parts", "SampleTextures"]
assert sorted(anomalib.models.list_models()) == models
assert type(anomalib.models.get_model("SPADE")) is anomalib.models.SPADE
assert anomalib.cli.pipelines.PIPELINE_REGISTRY["fewshot"] is FewShotPipeline
print("discovered")
"""


class World:
    """A folder that holds the stand-ins and serves as the only site-packages of a Python process.

    Args:
        root: Where to build it.
        repository: The source tree with the plugin's real files.
        run_python: Runs a Python process.
    """

    def __init__(
        self, root: Path, repository: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        self.root = root
        self.run_python = run_python
        for name, text in FILES.items():
            self.write(name, text)
        (root / "anople_anomalib" / "plugin").mkdir(exist_ok=True)
        for name in ("__init__.py", "plugin/__init__.py", "plugin/discovery.py", "plugin/registration.py"):
            shutil.copy(repository / "anople_anomalib" / name, root / "anople_anomalib" / name)
        shutil.copytree(repository / "anople_anomalib" / "utils", root / "anople_anomalib" / "utils")
        shutil.copytree(Path(lazy_loader.__file__).parent, root / "lazy_loader")
        for suffix in (".pth", ".py", ".start"):
            shutil.copy((repository / PTH).with_suffix(suffix), root)

    def write(self, name: str, text: str) -> None:
        """Write one file of the world."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    def run(self, code: str, installed: bool = True, warnings: str = "error") -> subprocess.CompletedProcess[str]:
        """Run code in this world; ``installed=False`` leaves the ``.pth`` file unread."""
        setup = f"site.addsitedir({str(self.root)!r})" if installed else f"sys.path.append({str(self.root)!r})"
        # -S: without the site-packages of the tests, where the real anomalib is.
        return self.run_python("-I", "-S", "-W", warnings, "-c", f"import site, sys; {setup}\n{textwrap.dedent(code)}")

    def print(self, code: str, installed: bool = True, warnings: str = "error") -> str:
        """Run code that must succeed and stay silent on the error stream, and return what it printed."""
        process = self.run(code, installed, warnings)
        assert (process.returncode, process.stderr) == (0, "")
        return process.stdout.strip()


@pytest.fixture
def world(tmp_path: Path, repository: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]) -> World:
    """A fresh world."""
    return World(tmp_path / "world", repository, run_python)


def test_python_start_imports_nothing(world: World) -> None:
    """A process that never imports anomalib does not even import the plugin."""
    assert world.print("print([name for name in sys.modules if 'ano' in name])") == "[]"


def test_newer_pythons_start_by_an_entry_point(world: World) -> None:
    """As PEP 829 has it: the callables that the lines of the .start file name are called, and nothing else is run."""
    start = world.root / PTH.replace(".pth", ".start")
    printed = world.print(
        f"""
        import pkgutil
        pkgutil.resolve_name({start.read_text().strip()!r})()
        print([name for name in sys.modules if "anople_anomalib" in name])
        import anomalib.models
        print("AnoPLe" in anomalib.models.__all__)
        """,
        installed=False,
    )
    assert printed.splitlines() == ["['anople_anomalib_autoload']", "True"]


def test_python_start_costs_less_than_two_milliseconds(world: World) -> None:
    """Reading the .pth file costs next to nothing."""
    cost = world.print(f"""
        from time import perf_counter
        def milliseconds():
            start = perf_counter()
            site.addpackage({str(world.root)!r}, {PTH!r}, set())
            return (perf_counter() - start) * 1000
        print(min(milliseconds() for _ in range(20)))
    """)
    assert float(cost) < 2


@pytest.mark.parametrize(
    "first",
    [
        "import anomalib",
        "import anomalib.data",
        "import anomalib.models",
        "import anomalib.models.image",
        "import anomalib.engine",
        "import anomalib.cli.pipelines",
        "import anople_anomalib",
        "from anople_anomalib import AnoPLe",
        "from anople_anomalib import AnoPLeModel",
        "import anople_anomalib.anople",
        "import anople_anomalib.data",
        "import anople_anomalib.data.sample_textures",
        "import anople_anomalib.pipeline.few_shot_pipeline",
    ],
)
@pytest.mark.parametrize("installed", [True, False])
def test_every_order_of_imports_registers(world: World, first: str, installed: bool) -> None:
    """Whatever is imported first, with the .pth or with an import of the plugin only, the names are there."""
    if not installed and first.startswith("import anomalib"):
        first += "\nimport anople_anomalib"  # nothing but an import can tell of a plugin that is not installed
    assert world.print(first + CHECK, installed) == "discovered"


def test_plugin_imported_after_all_of_anomalib_registers_at_once(world: World) -> None:
    """The import of the light package is enough, nobody has to touch a class."""
    code = "import anomalib.cli.pipelines as host, anople_anomalib\nprint(*host.PIPELINE_REGISTRY)"
    assert world.print(code, installed=False) == "benchmark fewshot"


def test_awaited_modules_keep_their_own_loader(world: World) -> None:
    """Specs answer all questions about a module before its import, and show no trace of the hook after it."""
    assert (
        world.print("""
            import copy, importlib.resources, importlib.util, runpy
            spec = importlib.util.find_spec("anomalib.models")
            assert "AnomalibModule" in spec.loader.get_source("anomalib.models")
            assert spec.loader.is_package("anomalib.models")
            assert spec.loader.get_code("anomalib.models").co_filename == spec.origin
            assert copy.copy(spec.loader).path == spec.origin
            assert spec.loader.get_resource_reader("anomalib.models") is not None
            import anomalib.models
            assert type(anomalib.models.__loader__) is type(anomalib.__loader__)
            assert anomalib.models.__spec__.loader is anomalib.models.__loader__
            assert (importlib.resources.files(anomalib.models) / "components.py").is_file()
            assert "PIPELINE_REGISTRY" in runpy.run_module("anomalib.cli.pipelines")
            print("done")
        """)
        == "done"
    )


def test_reload_registers_again(world: World) -> None:
    """A module that is run anew gets its names anew."""
    code = """
        import importlib, anomalib.data, anomalib.models
        for module in (anomalib.data, anomalib.models):
            importlib.reload(module)
        print(*anomalib.data.__all__, *anomalib.models.__all__)
    """
    assert world.print(code) == (
        "AnomalibDataModule FewShot Parts SampleTextures "
        "AnomalibModule AnoPLe SPADE AnomalyGPT FastRecon InCTRL PromptAD RegAD TinyWinClip"
    )


def test_no_class_is_loaded_before_anomalib_is_asked_for_it(world: World) -> None:
    """Neither an import of anomalib nor one of AnoPLe loads the rest; a name, get_model or the command does."""
    code = """
        import {}
        print("anople_anomalib.baselines" in sys.modules, end=" ")
        {}
        print("anople_anomalib.baselines" in sys.modules)
    """
    for first, second, printed in (
        ("anomalib.models, anomalib.data", "from anomalib.models import get_model", "False True"),
        ("anople_anomalib.anople", "anomalib.models.list_models", "False True"),
        ("anople_anomalib.anople", "from anomalib.models import *", "False True"),
        ("anople_anomalib.anople", "import anomalib.cli.pipelines", "False True"),
        ("anomalib.models, anople_anomalib.data", "anomalib.models.AnoPLe", "False False"),
    ):
        assert world.print(code.format(first, "import anomalib.models; " + second)) == printed, (first, second)


def test_broken_class_is_one_warning(world: World) -> None:
    """What cannot be registered is said once; anomalib and the other registrations go on."""
    world.write("anople_anomalib/anople.py", "import missing_library")
    world.write("anople_anomalib/pipeline/few_shot_pipeline.py", "import another_missing_library")
    process = world.run(
        """
        import anomalib.cli.pipelines, anomalib.data, anomalib.models
        print(hasattr(anomalib.models, "AnoPLe"), hasattr(anomalib.data, "FewShot"))
        """,
        warnings="always",
    )
    assert process.stdout.split() == ["False", "True"]
    assert process.stderr.count("RuntimeWarning") == 1
    assert "to anomalib.models: ModuleNotFoundError: No module named 'missing_library'" in process.stderr
    assert "--model anople_anomalib.AnoPLe" in process.stderr


def test_name_that_anomalib_uses_itself_stays_its_own(world: World) -> None:
    """A later anomalib with an AnoPLe of its own is not patched over."""
    world.write("anomalib/models/components.py", "class AnomalibModule: ...\nclass AnoPLe(AnomalibModule): ...")
    world.write(
        "anomalib/models/__init__.py", "from anomalib.models.components import AnomalibModule, AnoPLe\n__all__ = []"
    )
    process = world.run(
        "import anomalib.models, anople_anomalib\nprint(anomalib.models.AnoPLe.__module__)", warnings="always"
    )
    assert process.stdout.strip() == "anomalib.models.components"
    assert process.stderr.count("RuntimeWarning") == 1
    assert "anomalib.models already has another AnoPLe, from anomalib.models.components" in process.stderr


def test_pth_outlives_its_package_in_silence(world: World) -> None:
    """A .pth that an incomplete removal left behind neither breaks nor prints anything."""
    shutil.rmtree(world.root / "anople_anomalib")
    assert world.print("import anomalib.models; print(*anomalib.models.__all__)") == "AnomalibModule"


def test_broken_package_is_a_warning_of_anomalib_users_only(world: World) -> None:
    """Even a plugin that does not compile leaves Python's start silent and anomalib usable."""
    world.write("anople_anomalib/__init__.py", "def")
    assert world.print("print('started')") == "started"
    process = world.run("import anomalib.models; print(*anomalib.models.__all__)", warnings="always")
    assert process.stdout.strip() == "AnomalibModule"
    assert process.stderr.count("RuntimeWarning") == 1
    assert "SyntaxError" in process.stderr


@pytest.mark.parametrize("position", [0, 1])
def test_other_plugins_with_finders_of_their_own(world: World, position: str) -> None:
    """A plugin that asks every other finder, ours included, finds its modules and does its own work once."""
    other = f"""
class HookedLoader:
    def __init__(self, loader):
        self.loader = loader
        self.create_module = loader.create_module
    def exec_module(self, module):
        self.loader.exec_module(module)
        module.hooked = getattr(module, "hooked", 0) + 1
class OtherPlugin:
    def find_spec(self, name, path=None, target=None):
        if name != "anomalib.models":
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, specs))
        spec.loader = HookedLoader(spec.loader)
        return spec
sys.meta_path.insert({position}, OtherPlugin())
import anomalib.models
assert anomalib.models.hooked == 1
"""
    assert world.print(f"import anople_anomalib\n{other}{CHECK}") == "discovered"
    assert world.print(f"{other}{CHECK}") == "discovered"


def test_finder_without_find_spec_is_passed_over(world: World) -> None:
    """Packages of older days put finders on the meta path that only know ``find_module``."""
    old = """
class OldFinder:
    def find_module(self, name, path=None):
        return None
sys.meta_path.insert(1, OldFinder())
"""
    assert world.print(f"import anople_anomalib\n{old}{CHECK}", warnings="ignore") == "discovered"


def test_zipped_packages_are_discovered(world: World) -> None:
    """Both packages may come from one zip file, whose loader serves all its modules."""
    archive = world.root.parent / "packages.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in world.root.rglob("*.py"):
            file.write(path, path.relative_to(world.root))
    shutil.rmtree(world.root / "anople_anomalib")
    shutil.rmtree(world.root / "anomalib")
    assert world.print(f"sys.path.append({str(archive)!r}){CHECK}") == "discovered"


@pytest.mark.parametrize("delays", [(0.0, 0.1), (0.1, 0.0), (0.05, 0.05)])
def test_threads_that_import_both_sides_at_once(world: World, delays: tuple[float, float]) -> None:
    """Two threads, one importing anomalib and one the plugin, neither hang nor lose the registration."""
    for name, delay in zip(("anomalib/models/__init__.py", "anople_anomalib/anople.py"), delays, strict=True):
        world.write(name, f"import time\ntime.sleep({delay})\n{textwrap.dedent(FILES[name])}\ntime.sleep({delay})")
    code = """
import importlib, threading
names = ("anomalib.models", "anople_anomalib.anople")
threads = [threading.Thread(target=importlib.import_module, args=(name,), daemon=True) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(20)
    assert not thread.is_alive()
"""
    assert world.print(code + CHECK) == "discovered"
