import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longspan.impact.tally import grouped, kind_counts, token_sums


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-8, 8), st.booleans()), min_size=1, max_size=60))
def test_counts_are_those_of_a_plain_loop(rows: list[tuple[int, int, bool]]) -> None:
    kinds, scores, tops = (np.array(column) for column in zip(*rows, strict=True))
    sums = token_sums(kinds, scores / 4, tops, 4)
    found = {kind.name: kind for kind in kind_counts("abcd", sums, len(rows), int(tops.sum()))}
    for number, name in enumerate("abcd"):
        own = [(score / 4, top) for kind, score, top in rows if kind == number]
        if not own:
            assert name not in found
            continue
        kind = found[name]
        assert (kind.count, kind.top) == (len(own), sum(top for _, top in own))
        assert kind.mean == sum(score for score, _ in own) / len(own)
        assert kind.rate == kind.top / kind.count
    total = int(tops.sum())
    if total:
        # Both readings of the paper's "frequency", and how they hang together.
        assert abs(sum(kind.share_of_top for kind in found.values()) - 1) < 1e-9
        assert abs(sum(kind.lift * kind.count for kind in found.values()) - len(rows)) < 1e-6
    two = grouped(sums, np.array([0, 1, 0, 1]), 2)
    np.testing.assert_array_equal(two, np.stack([sums[:, 0] + sums[:, 2], sums[:, 1] + sums[:, 3]], axis=1))
