"""The paper's tables are complete, as printed, and reach the quality table with both readings."""

from __future__ import annotations

import pytest

from ois_benchmarks.published.paper import HEADINGS, OURS, paper, quality_rows
from ois_benchmarks.quality.metrics import Metric


def test_the_tables_have_their_rows_and_columns() -> None:
    tables = paper().tables
    assert {n: (len(t.rows), len(t.columns)) for n, t in tables.items()} == {
        1: (19, 5), 2: (19, 5), 3: (4, 5), 4: (5, 3), 5: (3, 5),
    }  # fmt: skip
    for table in tables.values():
        assert set(table.columns) <= set(HEADINGS)
        for row in table.rows:
            assert list(row.values) == list(table.columns)
            for text in row.values.values():
                assert text == "-" or float(text) > 0
    assert paper().source == "arXiv 2410.12214"


@pytest.mark.parametrize(
    ("number", "method", "group", "expected"),
    [
        (1, "OIS", 1, "3.95 7.50 89.40 93.78 485"),
        (1, "OIS", 2, "3.47 6.63 89.57 94.45 398"),
        (1, "HR-SAM++", 1, "5.32 9.18 - 91.84 -"),
        (2, "OIS", 1, "3.80 8.59 87.29 92.76 114"),
        (2, "SegNext", 1, "4.43 10.73 85.97 91.87 123"),
        (3, "OIS", 1, "107.88 31 9.2 3.95 93.78"),
        (4, "w/o order", 1, "4.84 91.61 171"),
        (4, "w/o dense", 1, "4.63 91.31 188"),
        (5, "DepthEncoder", 1, "3.88 10.19 85.36 92.15 140"),
        (5, "MM-SAM", 1, "6.22 12.26 51.41 88.19 181"),
    ],
)
def test_rows_are_as_printed(number: int, method: str, group: int, expected: str) -> None:
    row = paper().tables[number].row(method, group)
    assert list(row.values.values()) == expected.split()


def test_what_two_tables_print_agrees() -> None:
    tables = paper().tables
    for method in ("SimpleClick", "HQ-SAM", "SegNext", OURS):
        efficiency, quality = tables[3].row(method).values, tables[1].row(method).values
        assert [efficiency[key] for key in ("noc90", "miou5")] == [
            quality[key] for key in ("noc90", "miou5")
        ]
    full, best = tables[4].row("full").values, tables[2].row(OURS).values
    assert all(best[key] == full[key] for key in full)
    assert tables[5].row(OURS).values == best


def test_published_rows_have_both_readings_of_nof_and_no_number_for_a_dash() -> None:
    rows = {row["method"]: row for row in quality_rows("DAVIS345")}
    assert len(rows) == 19
    assert rows["OIS"] == {
        "method": "OIS", "dataset": "DAVIS345", "noc90": 3.80, "noc95": 8.59,
        "miou1": pytest.approx(0.8729), "miou5": pytest.approx(0.9276),
        "nof95_segnext": 114, "nof95_never": 114,
    }  # fmt: skip
    assert rows["HR-SAM, second group"].keys() == {"method", "dataset", "noc90", "noc95", "miou5"}
    assert {key for row in rows.values() for key in row} <= {"method", "dataset", *Metric}
    assert len(quality_rows("HQSeg44K val")) == 19
    assert quality_rows("DAVIS, 10 frames") == []  # only the published frames
