"""A sample of the order script; the whole of it is run by hand."""

import pytest

from longspan.topology import rank_slice
from tests.reliability import order


def test_a_sample_of_the_bar_holds() -> None:
    assert order.main(["--quick"]) == 0


def test_a_sample_in_another_place_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the script cannot pass for comparing nothing: groups that take each other's share are differences."""

    def swapped(spec: object, step: int, group: int, groups: int) -> range:
        return order_of(spec, step, groups - 1 - group, groups)

    order_of = order.group_indices
    monkeypatch.setattr(order, "group_indices", swapped)
    assert order.main(["--quick"]) == 1


def test_slices_of_ranks_make_up_the_row() -> None:
    assert [rank_slice(8, 4, rank) for rank in range(4)] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]
