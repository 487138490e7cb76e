"""docs/security-bars.md: every bar that was promised has a row, and every test that a row names is there."""

import re
from functools import cache

from tests.house.sources import ROOT

PROMISED = [
    "S1", "S2", "S3", "S4", "S5", "S6", "S8", "S9", "D1", "D2", "D3", "D4", "D5", "D6", "D7", "D8", "D9", "D10", "D11", "D12",
    "R1", "R2", "R3", "R4", "R5", "R6", "M1", "M2", "M3", "T1", "T2", "T3", "A1", "A2", "A3", "G2", "G4", "G5",
]  # fmt: skip
TOLD = ("S7", "S10", "R7", "G1", "G3")
"""Bars without a row: what is known of each stands below the table."""
PAGES = ("docs/security-bars.md", "docs/threat-model.md")


def rows(text):
    """Bar -> its cells."""
    return {cells[0]: cells for line in text.splitlines() if re.match(r"\| [A-Z]\d+ ", line) for cells in [cells_of(line)]}


def cells_of(line):
    return [cell.strip() for cell in line.strip("| ").split(" | ")]


def named(text):
    """Yield `(file, function)` of every test that a text names; `::function` alone means the file that was named before it."""
    file = None
    for path, function in re.findall(r"`([\w/]+\.py)?::(\w+)`", text):
        file = path or file
        yield file, function


@cache
def functions_of(file):
    """Names of the functions that begin a line of a test file; none if there is no such file."""
    path = ROOT / "tests" / file
    return set(re.findall(r"^def (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)) if path.exists() else set()


def missing(text):
    """What a text names and is not there."""
    return {f"{file}::{function}" for file, function in named(text) if function not in functions_of(file)}


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def test_every_promised_bar_has_a_test_and_a_control():
    table = rows(read(PAGES[0]))
    assert sorted(table) == sorted(PROMISED)
    assert [bar for bar in TOLD if not re.search(rf"\*\*[^*]*\b{bar}\b[^*]*\*\*", read(PAGES[0]))] == []
    for bar, (_, promise, test, control, tier, figure) in table.items():
        assert promise and figure, bar
        assert set(tier.split(", ")) <= {"test", "all"}, bar
        assert list(named(test)), bar
        assert list(named(control)), bar


def test_every_test_that_a_page_names_is_there():
    assert {page: found for page in PAGES if (found := missing(read(page)))} == {}


def test_control_a_test_that_is_not_there_would_be_found():
    assert missing("`house/test_docs.py::test_of_nothing`, `::test_neither`") == {
        "house/test_docs.py::test_of_nothing",
        "house/test_docs.py::test_neither",
    }
