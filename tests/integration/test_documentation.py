# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What the README and the pages tell users to type: the programs themselves parse the commands, imports are done."""

import argparse
import ast
import inspect
import re
import runpy
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import jsonargparse
import pytest
import yaml

from helpers.command_line import Parser
from helpers.documents import commands, fenced, programs

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.usefixtures("_quiet_process")

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
CARD = REPOSITORY / "anople_anomalib" / "assets" / "anople_tiny" / "MODEL_CARD.md"
UPSTREAM = REPOSITORY / "docs" / "upstream.md"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCRIPTS = PROJECT["scripts"]
OTHERS = {"mkdocs", "mypy", "pre-commit", "pytest", "ruff"}  # of other people; their options are not ours
PUBLIC = ("anople_anomalib", *(f"anople_anomalib.{room}" for room in
          ("baselines", "data", "deployment", "metrics", "pipeline", "visualization")))  # fmt: skip
LARGEST_README = 9000  # bytes


class _Parsed(BaseException):
    """Raised where a program would begin to work."""


def _cases(of: Callable[[Path], list], pages: list[Path]) -> list:
    """What stands on several pages is one case."""
    cases, seen = [], []
    for page in pages:
        for number, case in enumerate(of(page), start=1):
            if case not in seen:
                seen.append(case)
                cases.append(pytest.param(case, id=f"{page.stem}-{number}"))
    return cases


@pytest.fixture
def _stop_after_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
        parse = parser.parse_args

        def parse_and_stop(*args: object, _parse: Callable = parse, **kwargs: object) -> None:
            _parse(*args, **kwargs)
            raise _Parsed

        monkeypatch.setattr(parser, "parse_args", parse_and_stop)


def _run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a program of the package or the repository as Python would."""
    program, *arguments = words
    arguments = ["brick" if argument == "C" else argument for argument in arguments]
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    if program in SCRIPTS:
        module, function = SCRIPTS[program].split(":")
        getattr(import_module(module), function)()
    elif program == "-m":
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=False)
    else:
        monkeypatch.syspath_prepend(str((REPOSITORY / program).parent))
        runpy.run_path(str(REPOSITORY / program), run_name="__main__")


@pytest.mark.parametrize("words", _cases(commands, [*PAGES, CARD]))
def test_commands_are_accepted(
    words: list[str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(REPOSITORY)
    first = words[0]
    if first == "anomalib":
        Parser(words[1:], run=False)
    elif first == "python" or first in SCRIPTS:
        request.getfixturevalue("_stop_after_parsing")
        with pytest.raises(_Parsed):
            _run(words[1:] if first == "python" else words, monkeypatch)
    elif first == "pip":
        extras = {extra for word in words for extra in re.findall(r"\w+", "".join(re.findall(r"\.\[(.*)\]", word)))}
        assert extras <= set(PROJECT["optional-dependencies"])
    else:
        assert first in OTHERS
        assert all((REPOSITORY / word).exists() for word in words[1:] if "/" in word)


def test_a_renamed_option_is_found() -> None:
    with pytest.raises(SystemExit):
        Parser(["train", "--model", "AnoPLe", "--model.no_such_option", "1", "--data", "MVTecAD"], run=False)


def _imports_of(tree: ast.Module) -> str:
    return ast.unparse(ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], []))


@pytest.mark.parametrize("program", _cases(programs, [page for page in PAGES if page != UPSTREAM] + [CARD]))
def test_programs_know_the_names_and_arguments(program: str) -> None:
    """Imports are done, and calls of imported names have arguments that exist."""
    tree = ast.parse(program)
    names: dict[str, object] = {}
    exec(compile(_imports_of(tree), "imports", "exec"), names)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        callee = names.get(call.func.id)
        if callee is not None:
            inspect.signature(callee).bind_partial(
                *call.args, **{keyword.arg: None for keyword in call.keywords if keyword.arg}
            )


@pytest.mark.parametrize("program", _cases(programs, [UPSTREAM]))
def test_programs_show_what_they_are_about(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "docs/upstream.md", "exec"), {"__name__": "reproducer"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_data_in_pages_is_readable(page: Path) -> None:
    readers = {"toml": tomllib.loads, "yaml": yaml.safe_load}
    for language, content in fenced(page.read_text(encoding="utf-8")):
        assert language
        if language in readers:
            assert readers[language](content)


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_bytes()) <= LARGEST_README


@pytest.mark.parametrize("page", [*PAGES[:2], REPOSITORY / "SECURITY.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Those outside docs/, whose build checks its own."""
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_public_names_are_those_of_the_api_page() -> None:
    page = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^::: (\S+)$", page, flags=re.MULTILINE)) - set(PUBLIC)
    for name in listed:
        module, _, attribute = name.rpartition(".")
        assert getattr(import_module(module), attribute).__doc__
    promised = {f"{module}.{name}" for module in PUBLIC for name in import_module(module).__all__}
    assert promised <= listed


def test_the_files_with_the_owners_name_agree_and_are_listed_for_a_maintainer() -> None:
    listed = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files = ("pyproject.toml", "CITATION.cff", "mkdocs.yml", ".github/ISSUE_TEMPLATE/config.yml")
    owners = set()
    for file in files:
        assert f"`{file}`" in listed
        owners |= set(
            re.findall(r"github\.com/([^/]+)/anople_anomalib", (REPOSITORY / file).read_text(encoding="utf-8"))
        )
    assert len(owners) == 1
