# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The report: published figures, cells, tables, gaps, and the files it writes."""

import math
from pathlib import Path

import pandas as pd
import pytest

from anople_anomalib.commands.main import main
from anople_anomalib.metrics.bounds import Rate
from anople_anomalib.pipeline.results import ResultsTable, write_plan
from anople_anomalib.report.cells import (
    CELL_COLUMNS,
    MEAN,
    PUBLISHED_PATH,
    groups,
    load_published,
    measured_cells,
    method_key,
    published_cells,
    ranks,
)
from anople_anomalib.report.results import Results
from anople_anomalib.report.tables import (
    Cell,
    TextTable,
    category_tables,
    cost_table,
    figure_cell,
    gaps,
    summary_tables,
    verdict_table,
)
from helpers.result_rows import job, results

ROUNDING = 0.1  # of a mean of printed figures against a printed mean
DEVIATING_MEANS = {  # the comments in published.csv name them
    ("6", "PatchCore", "1"),
    ("6", "PatchCore", "4"),
    ("6", "PromptAD", "1"),
    ("7", "AnoPLe", "1"),
}


def cell(cells: pd.DataFrame, **where: object) -> dict[str, object]:
    """The one cell with these values."""
    for column, value in where.items():
        cells = cells[cells[column] == value]
    assert len(cells) == 1
    return cells.iloc[0].to_dict()


class TestPublished:
    @pytest.fixture
    def by_category(self) -> pd.DataFrame:
        figures = pd.read_csv(PUBLISHED_PATH, comment="#", dtype={"table": str, "shots": str})
        return figures[figures["table"].isin(["6", "7", "8"])]

    def test_means_are_those_of_the_categories(self, by_category: pd.DataFrame) -> None:
        deviating = set()
        for key, rows in by_category.groupby(["table", "method", "shots"]):
            printed = rows.loc[rows["category"] == MEAN, "mean"].item()
            computed = rows.loc[rows["category"] != MEAN, "mean"].mean()
            if abs(printed - computed) > ROUNDING:
                deviating.add(key)
        assert deviating == DEVIATING_MEANS

    def test_every_table_has_all_categories_methods_and_shots(self, by_category: pd.DataFrame) -> None:
        for table, categories in {"6": 15, "7": 15, "8": 12}.items():
            rows = by_category[by_category["table"] == table]
            assert len(rows) == (categories + 1) * 5 * 3
            assert not rows.duplicated(["method", "shots", "category"]).any()

    def test_table_1_repeats_the_means(self, by_category: pd.DataFrame) -> None:
        main_table = load_published(["1"])
        for figure in by_category[by_category["category"] == MEAN].to_dict("records"):
            where = {"dataset": figure["dataset"], "metric": f"{figure['level']}_AUROC", "shots": figure["shots"]}
            same = cell(main_table, **where, key=method_key(figure["method"]))
            assert (same["mean"], same["std"]) == (figure["mean"], figure["std"])

    def test_a_figure_of_two_tables_comes_once(self) -> None:
        figures = load_published()
        assert not figures.duplicated(["dataset", "setting", "metric", "shots", "category", "key"]).any()

    def test_the_second_version_has_pro_and_stands_beside_the_first(self, tmp_path: Path) -> None:
        found = published_cells(results(tmp_path, [job("AnoPLe", image_AUROC=0.9)]))
        mine = found[(found["category"] == MEAN) & found["method"].str.startswith("AnoPLe") & (found["shots"] == "1")]
        mine = mine[mine["setting"] == "multi-class"].set_index(["method", "metric"])["mean"]
        assert mine["AnoPLe", "image_AUROC"] == 94.1
        assert mine["AnoPLe (CVPR 2026)", "image_AUROC"] == 94.5
        assert mine["AnoPLe (CVPR 2026)", "pixel_AUPRO"] == 90.8
        sizes = load_published(["cvpr2026"]).groupby("dataset").size().to_dict()
        assert sizes == {"MVTecAD": 10, "RealIAD": 5, "Visa": 10}

    def test_an_unknown_table_is_named(self) -> None:
        with pytest.raises(ValueError, match="Unknown published table 12"):
            load_published(["12"])

    @pytest.mark.parametrize(
        ("ours", "paper"), [("WinClip", "WinCLIP+"), ("Patchcore", "PatchCore"), ("Padim", "PaDiM")]
    )
    def test_methods_are_found_by_their_names_in_the_paper(self, ours: str, paper: str) -> None:
        assert method_key(ours) == method_key(paper)

    def test_methods_that_differ_in_a_sign_stay_apart(self) -> None:
        names = ("AnoPLe", "AnoPLe*", "T → I", "I → T", "T ↔ I", "T & I (indep)")
        assert len({method_key(name) for name in names}) == len(names)


class TestVerdicts:
    COUNTED = '{"fitted_to_these": %s, "categories": {"bottle": {"good": [1, 20], "crack": [0, 10], "dent": [2, 9]}}}'

    def test_rates_stand_with_their_bounds_for_every_defect(self, tmp_path: Path) -> None:
        done = results(tmp_path, [job(verdicts=self.COUNTED % "false"), job(seed=1)])
        (row,) = verdict_table(done).rows
        assert [cell.text for cell in row[4:8]] == ["bottle", "no", *map(str, (Rate(1, 20), Rate(2, 19)))]
        assert row[8].text == f"crack {Rate(0, 10)}; dent {Rate(2, 9)}"
        assert row[7].number == pytest.approx(2 / 19)

    def test_a_threshold_that_was_fitted_to_the_parts_promises_nothing(self, tmp_path: Path) -> None:
        (row,) = verdict_table(results(tmp_path, [job(verdicts=self.COUNTED % "true")])).rows
        assert [cell.text for cell in row[5:8]] == ["yes, hence no bound", "1 of 20 (5 %)", "2 of 19 (10.5 %)"]
        assert "at most" not in row[8].text


class TestCells:
    TABLE = pd.DataFrame({"method": ["b", "a", "b"], "shots": ["1", "1", "2"], "value": [1.0, 2.0, 3.0]})

    def test_groups_come_in_the_order_of_their_first_rows_or_sorted(self) -> None:
        assert [key for key, _ in groups(self.TABLE, "method")] == [("b",), ("a",)]
        assert [key for key, _ in groups(self.TABLE, "method", sort=True)] == [("a",), ("b",)]

    def test_a_group_holds_the_rows_that_share_the_text_of_all_columns(self) -> None:
        values = {key: rows["value"].tolist() for key, rows in groups(self.TABLE, "method", "shots")}
        assert values == {("b", "1"): [1.0], ("a", "1"): [2.0], ("b", "2"): [3.0]}

    def test_an_empty_table_has_no_groups(self) -> None:
        assert list(groups(self.TABLE.head(0), "method", "shots")) == []

    def test_mean_and_deviation_are_over_seeds(self, tmp_path: Path) -> None:
        rows = [job(seed=seed, image_AUROC=value) for seed, value in enumerate((0.90, 0.94, 0.98))]
        values = results(tmp_path, rows).values
        found = cell(measured_cells(values), category="bottle")
        assert (found["mean"], found["std"], found["seeds"]) == (pytest.approx(94), pytest.approx(4), 3)
        assert str(figure_cell(found)) == "94.0±4.0 measured, n=3"

    def test_one_seed_has_no_deviation(self, tmp_path: Path) -> None:
        found = cell(measured_cells(results(tmp_path, [job(image_AUROC=0.9)]).values), category="bottle")
        assert str(figure_cell(found)) == "90.0 measured, n=1"

    def test_a_mean_over_categories_takes_complete_seeds_only(self, tmp_path: Path) -> None:
        rows = [job(seed=0, image_AUROC=0.8), job("Padim", seed=0, image_AUROC=0.5)]
        rows += [job(category="cable", seed=seed, image_AUROC=1.0) for seed in (0, 1)]
        cells = measured_cells(results(tmp_path, rows).values)
        complete = cell(cells, method="Patchcore", category=MEAN)
        assert (complete["mean"], complete["seeds"], complete["categories"]) == (pytest.approx(90), 1, 2)
        incomplete = cell(cells, method="Padim", category=MEAN)
        assert math.isnan(incomplete["mean"])
        assert str(figure_cell(incomplete)) == "only 1 categories measured"

    def test_several_categories_are_taken_apart(self, tmp_path: Path) -> None:
        metrics = {"image_AUROC": 0.7, "bottle/image_AUROC": 0.6, "cable/image_AUROC": 0.8}
        cells = measured_cells(results(tmp_path, [job(category="bottle;cable", **metrics)]).values)
        assert {row["category"]: round(row["mean"]) for row in cells.to_dict("records")} == {
            "bottle": 60,
            "cable": 80,
            MEAN: 70,
        }

    def test_methods_with_one_label_are_told_apart_by_their_arguments(self, tmp_path: Path) -> None:
        rows = [
            job(
                seed=seed,
                job_id=f"{depth}-{seed}",
                init_args={"prompts": {"depth": depth}, "training": {"seed": seed}},
                image_AUROC=0.5,
            )
            for depth in (3, 9)
            for seed in (0, 1)
        ]
        methods = results(tmp_path, rows).jobs["method"]
        assert set(methods) == {"Patchcore (prompts.depth=3)", "Patchcore (prompts.depth=9)"}

    def test_sources_are_ranked_apart_as_printed(self) -> None:
        rows = [("measured", 90.04), ("measured", 89.96), ("measured", 80.0), ("published", 95.0), ("measured", 70.0)]
        cells = pd.DataFrame([{"source": source, "mean": mean} for source, mean in rows])
        assert ranks(cells) == {0: 1, 1: 1, 2: 2}


class TestTables:
    @pytest.fixture
    def found(self, tmp_path: Path) -> Results:
        rows = []
        for model, value in (("Patchcore", 0.95), ("AnoPLe", 0.97), ("Padim", 0.80)):
            for category in ("bottle", "tile"):
                rows += [job(model, category, seed, image_AUROC=value, pixel_AUROC=value) for seed in (0, 1)]
        return results(tmp_path, rows)

    def test_every_cell_by_category_says_where_it_comes_from(self, found: Results) -> None:
        table = category_tables(measured_cells(found.values), published_cells(found))[0]
        assert table.title == "MVTecAD, one-class, image_AUROC, 1-shot"
        assert table.header == [
            "Category",
            "Patchcore",
            "PatchCore, paper (one-class)",
            "AnoPLe",
            "AnoPLe, paper (multi-class)",
            "Padim",
            "PaDiM, paper (one-class)",  # of which the paper has no categories, but a mean
        ]
        assert [row[0].text for row in table.rows] == ["bottle", "tile", MEAN]
        assert [str(cell) for cell in table.rows[0]][:5] == [
            "bottle",
            "95.0±0.0 measured, n=2",
            "99.4±0.4 published",
            "97.0±0.0 measured, n=2",
            "99.2±0.2 published",
        ]
        texts = [str(cell) for row in table.rows for cell in row[1:] if cell.text]
        assert all("measured" in text or "published" in text for text in texts)

    def test_the_best_is_bold_and_the_second_best_underlined(self, found: Results) -> None:
        markdown = category_tables(measured_cells(found.values), published_cells(found))[0].markdown()
        assert "**97.0±0.0 measured, n=2**" in markdown
        assert "<u>95.0±0.0 measured, n=2</u>" in markdown
        assert "| 80.0±0.0 measured, n=2" in markdown

    def test_means_do_not_mix_settings(self, found: Results) -> None:
        (table,) = summary_tables(measured_cells(found.values), published_cells(found))
        assert table.title == "MVTecAD, one-class, means over categories"
        methods = [row[0].text for row in table.rows]
        assert methods[:3] == ["Patchcore", "AnoPLe", "Padim"]
        assert "PromptAD" in methods
        assert "AnomalyGPT" not in methods  # multi-class
        assert str(table.rows[0][1]) == "95.0±0.0 measured, n=2, 2 categories"

    def test_prompts_without_a_memory_have_a_table_of_their_own_beside_others(self, tmp_path: Path) -> None:
        alone = job("PromptAD", image_AUROC=0.7, init_args={"use_memory": False})
        found = results(tmp_path / "mixed", [job(image_AUROC=0.9), alone])
        first, second = summary_tables(measured_cells(found.values), published_cells(found), found.without_memory)
        assert [row[0].text for row in first.rows if row[1].source == "measured"] == ["Patchcore"]
        assert second.title.endswith("prompts without a memory")
        assert [row[0].text for row in second.rows] == ["PromptAD"]
        found = results(tmp_path / "alone", [alone])
        assert len(summary_tables(measured_cells(found.values), published_cells(found), found.without_memory)) == 1

    def test_costs_are_medians(self, tmp_path: Path) -> None:
        rows = [job(seed=seed, image_AUROC=0.5, fit_seconds=float(seconds)) for seed, seconds in enumerate((1, 2, 600))]
        table = cost_table(results(tmp_path, rows))
        costs = dict(zip(table.header, map(str, table.rows[0]), strict=True))
        assert (costs["Jobs"], costs["Fit (s)"], costs["Trained parameters"]) == ("3", "2", "0")
        assert "Peak memory (MB)" not in costs  # nothing measured it

    def test_a_cell_with_a_bar_does_not_break_the_table(self) -> None:
        assert "a\\|b" in TextTable("t", ["x"], [[Cell("a|b")]]).markdown()


class TestGaps:
    def test_failed_jobs_are_named_with_their_error(self, tmp_path: Path) -> None:
        failed = {"status": "failed", "error": "OSError: no disk", "setting": ""}
        rows = [job(image_AUROC=0.5), job("Padim", seed=1, **failed), job("Padim", seed=2, **failed)]
        found = [gap for gap in gaps(results(tmp_path, rows)) if gap.startswith("Failed")]
        assert found == ["Failed: Padim on MVTecAD bottle, 1-shot, seed 1, 2: OSError: no disk"]

    def test_planned_jobs_that_did_not_run_are_named(self, tmp_path: Path) -> None:
        plan = [job(seed=seed) for seed in (0, 1, 2)]
        write_plan(tmp_path, "config", plan)
        found = [gap for gap in gaps(results(tmp_path, [job(seed=0, image_AUROC=0.5)])) if gap.startswith("Not run")]
        assert found == ["Not run: Patchcore on MVTecAD bottle, 1-shot, seed 1, 2."]

    def test_seeds_and_categories_that_others_have_are_named(self, tmp_path: Path) -> None:
        rows = [job(seed=seed, image_AUROC=0.5) for seed in (0, 1)]
        rows += [job("Padim", seed=0, image_AUROC=0.5), job(category="cable", seed=0, image_AUROC=0.5)]
        found = gaps(results(tmp_path, rows))
        assert "Missing seeds: Padim on MVTecAD, one-class, 1-shot, bottle: 1." in found
        assert "Missing seeds: Padim on MVTecAD, one-class, 1-shot, cable: 0." in found
        assert "One seed only, hence no standard deviation: on MVTecAD, one-class, 1-shot, cable." in found

    def test_categories_of_the_paper_that_were_not_measured_are_named(self, tmp_path: Path) -> None:
        found = gaps(results(tmp_path, [job(seed=seed, image_AUROC=0.5) for seed in (0, 1)]))
        assert len(found) == 1
        assert found[0].startswith("Missing categories: MVTecAD, one-class: cable, capsule, carpet,")
        assert "1 of 15 categories" in found[0]

    def test_a_complete_comparison_has_none(self, tmp_path: Path) -> None:
        rows = [job(seed=seed, image_AUROC=0.5, dataset="mine") for seed in (0, 1)]
        assert gaps(results(tmp_path, rows)) == []


class TestFiles:
    def test_a_report_has_tables_cells_and_plots(self, tmp_path: Path) -> None:
        for seed in (0, 1):
            for shots in (1, 2):
                ResultsTable(tmp_path).add(job("AnoPLe", seed=seed, k_shot=shots, image_AUROC=0.9, pixel_AUPRO=0.8))
        assert main(["report", str(tmp_path)]) == 0
        report = tmp_path / "report"
        text = (report / "report.md").read_text(encoding="utf-8")
        assert "4 jobs succeeded, 0 failed, 0 did not run." in text
        assert "90.0±0.0 measured, n=2" in text
        assert "94.1±2.1 published" in text
        cells = pd.read_csv(report / "cells.csv")
        assert list(cells.columns) == [column for column in CELL_COLUMNS if column != "key"]
        assert set(cells["source"]) == {"measured", "published"}
        assert set(cells["metric"]) == {"image_AUROC", "pixel_AUPRO"}
        table = pd.read_csv(report / "tables" / "MVTecAD__one-class__image_AUROC__2-shot.csv")
        assert table["AnoPLe"].tolist() == ["90.0±0.0 measured, n=2"] * 2
        plots = {path.name for path in report.glob("*.png")}
        assert plots == {"shots_MVTecAD_one-class_image_AUROC.png", "speed_MVTecAD_one-class_image_AUROC.png"}
        assert all(f"({name})" in text for name in plots)

    def test_pro_stands_beside_the_second_versions_whose_figures_are_said_to_be_of_notes(self, tmp_path: Path) -> None:
        ResultsTable(tmp_path).add(job("AnoPLe", image_AUROC=0.9, pixel_AUPRO=0.8, setting="multi-class"))
        assert main(["report", str(tmp_path)]) == 0
        for name in ("report.html", "report.md"):
            text = (tmp_path / "report" / name).read_text(encoding="utf-8")
            assert "taken from notes on it" in text
            assert all(each in text for each in ("AnoPLe (CVPR 2026)", "pixel_AUPRO", "90.8"))

    def test_all_metrics_and_several_folders(self, tmp_path: Path) -> None:
        for seed in (0, 1):
            ResultsTable(tmp_path / str(seed)).add(job(seed=seed, image_AUROC=0.9, pixel_AUPRO=0.8))
        folders = [str(tmp_path / "0"), str(tmp_path / "1")]
        assert main(["report", *folders, "--metrics", "all", "--output", str(tmp_path / "out")]) == 0
        assert "80.0±0.0 measured, n=2" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")

    def test_a_run_in_which_all_failed_is_reported_too(self, tmp_path: Path) -> None:
        ResultsTable(tmp_path).add(job(status="failed", error="OSError: no disk", setting=""))
        assert main(["report", str(tmp_path)]) == 0
        assert "OSError: no disk" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("arguments", "message"), [([], "There is no results.csv"), (["--metrics", "speed"], "image_AUROC")]
    )
    def test_bad_input_is_a_clear_error(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
    ) -> None:
        folder = tmp_path / "results"
        if arguments:
            ResultsTable(folder).add(job(image_AUROC=0.9))
        assert main(["report", str(folder), *arguments]) == 1
        assert message in capsys.readouterr().err
        assert not (folder / "report").exists()
