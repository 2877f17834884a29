"""A sample of the cells in every run of the suite; the script has the others."""

import pytest

from tests.reliability import store_faults


def test_every_cell_of_the_sample_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert store_faults.main(["--quick"]) == 0, capsys.readouterr().out


def test_the_cells_are_those_of_the_bar() -> None:
    cells = store_faults.all_cells()
    of_the_bar = {cell for cell in cells if cell.task == "read" and cell.kind in store_faults.KINDS_OF_THE_BAR}
    assert len(of_the_bar) == 8 * 4 * 3
    assert set(store_faults.quick_cells()) - set(cells) <= {
        cell for cell in store_faults.quick_cells() if cell.task != "read"
    }
