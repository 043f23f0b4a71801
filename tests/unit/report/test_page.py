# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The report as one HTML page, parsed, and in a browser; and its numbers in long form."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from anople_anomalib.commands.main import main
from anople_anomalib.pipeline.results import ResultsTable
from anople_anomalib.report.results import LONG_COLUMNS
from helpers.result_rows import job

VOID = {"meta", "img", "br", "link", "hr", "input"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<script>alert('x')</script> & \"co\""


class Page(HTMLParser):
    """A page taken apart: attributes by tag in their order, texts by the tag that they stand in, and open tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "every tag is closed where it was opened"

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attributes[name] or "" for found, attributes in self.tags if found == tag and name in attributes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two methods, one of them with one seed, and one that failed; an example map of each."""
    metrics = {"image_AUROC": 0.9, "pixel_AUPRO": 0.8}
    rows = [job("AnoPLe", seed=seed, k_shot=shots, **metrics) for seed in (0, 1) for shots in (1, 2)]
    rows += [job("Patchcore", **metrics | {"image_AUROC": 0.1}), job("Padim", status="failed", error=EVIL, setting="")]
    for row in rows:
        ResultsTable(tmp_path).add(row)
        (tmp_path / "examples" / str(row["job_id"])).mkdir(parents=True)
        Image.new("RGB", (8, 4)).save(tmp_path / "examples" / str(row["job_id"]) / "bottle.jpg")
    return tmp_path


@pytest.fixture
def report(folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["report", str(folder)]) == 0
    report = folder / "report"
    assert str(report / "report.html") in capsys.readouterr().out
    return report


def test_a_strangers_folder_holds_plain_data_with_known_names_and_shows_nothing_beside_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 4), (1, 2, 3)).save(folder / "bottle.jpg")
    leading_out = job("Leading", image_AUROC=0.9, pixel_AUPRO=0.8, seed=7) | {"job_id": ".."}
    ResultsTable(folder).add(leading_out)
    assert main(["report", str(folder)]) == 0
    secret = base64.b64encode((folder / "bottle.jpg").read_bytes()).decode()
    assert secret not in (folder / "report" / "report.html").read_text(encoding="utf-8")
    plan = {"published_tables": [], "jobs": [], "class_path": "os.getcwd"}
    for text, message in (
        (json.dumps(plan), "is no plan of a comparison"),
        (json.dumps(plan | {"jobs": [{"job_id": {"class_path": "os.getcwd"}}]}), "is no plan of a comparison"),
        ("!!python/object/apply:os.getcwd []", "is not JSON"),
    ):
        (folder / "plan_mine.json").write_text(text, encoding="utf-8")
        assert main(["report", str(folder)]) == 1
        assert message in capsys.readouterr().err
    (folder / "results.csv").write_text("a,b\n1,2\n")
    assert main(["report", str(folder)]) == 1
    assert "is no table of a comparison: it has no column status" in capsys.readouterr().err


def test_the_page_needs_nothing_beside_it_and_failures_come_first(report: Path) -> None:
    text = (report / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    headings = [found for tag, found in page.texts if tag == "h2"]
    assert headings == ["Failures", "What is missing", "Tables", "Plots", "Example maps"]
    addresses = [*page.attributes("img", "src"), *page.attributes("a", "href"), *page.attributes("use", "xlink:href")]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not page.attributes("script", "src") + page.attributes("link", "href")
    assert "default-src 'none'" in page.attributes("meta", "content")[1]


def test_text_is_escaped(report: Path) -> None:
    text = (report / "report.html").read_text(encoding="utf-8")
    assert "alert('x')" not in text.replace("&#39;", "'").split("<script>")[-1], "the page's own script is the last one"
    assert EVIL in [found for _, found in Page(text).texts]


def test_every_figure_says_where_it_comes_from_and_sorts_by_its_number(report: Path) -> None:
    page = Page((report / "report.html").read_text(encoding="utf-8"))
    texts = [found for _, found in page.texts]
    assert texts[texts.index("90.0±0.0") + 1].startswith("measured, n=2")
    assert texts[texts.index("10.0") + 1].startswith("measured, n=1"), "one seed has no deviation"
    assert texts[texts.index("94.1±2.1") + 1] == "published"
    kinds = [attributes for tag, attributes in page.tags if tag == "td" and "class" in attributes]
    figures = [cell for cell in kinds if {"measured", "published"} & set((cell["class"] or "").split())]
    assert figures
    assert all(0 <= float(cell.get("data-number") or "nan") <= 100 for cell in figures)


def test_plots_are_svg_with_identifiers_of_their_own(report: Path) -> None:
    page = Page((report / "report.html").read_text(encoding="utf-8"))
    labels = page.attributes("svg", "aria-label")
    assert labels == ["shots MVTecAD one-class image AUROC", "speed MVTecAD one-class image AUROC"]
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_example_maps_are_of_every_method_that_succeeded(report: Path) -> None:
    page = Page((report / "report.html").read_text(encoding="utf-8"))
    assert page.attributes("img", "alt") == [
        "AnoPLe on bottle: image and anomaly map",
        "Patchcore on bottle: image and anomaly map",
    ]


def test_values_are_in_long_form(report: Path) -> None:
    values = pd.read_csv(report / "values.csv", dtype={"k": str, "seed": str})
    assert tuple(values.columns) == LONG_COLUMNS
    metrics = values[values["unit"] == "percent"]
    assert len(metrics) == 5 * 2, "every job that succeeded, and every metric"
    mean = metrics[metrics["metric"] == "image_AUROC"].groupby(["method", "k"])["value"].mean()
    assert mean.to_dict() == pytest.approx({("AnoPLe", "1"): 90, ("AnoPLe", "2"): 90, ("Patchcore", "1"): 10})
    seconds = values[values["metric"] == "fit_seconds"]
    assert seconds["category"].isna().all()
    assert seconds["value"].tolist() == [1.5] * 5
    assert not values["value"].isna().any()


def test_a_run_in_which_all_failed_has_a_page_and_a_table(tmp_path: Path) -> None:
    ResultsTable(tmp_path).add(job(status="failed", error="OSError: no disk", setting=""))
    assert main(["report", str(tmp_path)]) == 0
    assert "OSError: no disk" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert pd.read_csv(tmp_path / "report" / "values.csv").empty


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_sorts_and_axe_finds_nothing(report: Path, scheme: str) -> None:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[test]'")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe: pip install '.[test]'")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(color_scheme=scheme)
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.goto((report / "report.html").as_uri())
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        sort_and_check(page)
        browser.close()
    assert messages == []


def sort_and_check(page: Any) -> None:
    """Sort the table of means by its second column, down and up again."""
    heading = page.locator("details th", has_text=re.compile("image_AUROC, 1-shot")).first
    column = "table.sortable >> nth=1 >> tbody tr td:nth-child(2)"
    for direction in ("descending", "ascending"):  # the best first
        heading.get_by_role("button").press("Enter")
        assert heading.get_attribute("aria-sort") == direction
        numbers = [cell.get_attribute("data-number") for cell in page.locator(column).all()]
        known = [float(number) for number in numbers if number is not None]
        assert known == sorted(known, reverse=direction == "descending")
        assert len(known) > 2
        assert numbers[len(known) :] == [None] * (len(numbers) - len(known)), "what is empty stays last"
