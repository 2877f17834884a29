"""Scores by vocabulary item: what is written comes back, and what cannot be believed is said."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longspan.corpus.impact.vocabulary import (
    LEAST_COUNT,
    VOCABULARY_FILE,
    VocabularyScores,
    read_vocabulary,
    write_vocabulary,
)
from longspan.errors import DataError

SCORES = VocabularyScores(
    "analysis", "tokenizer", np.array([0, LEAST_COUNT - 1, LEAST_COUNT, 5000]), np.array([0, 3.5, -0.25, 1 / 3])
)


def test_what_is_written_comes_back_and_rare_items_weigh_nothing(tmp_path: Path) -> None:
    write_vocabulary(str(tmp_path / "one"), SCORES)
    write_vocabulary(str(tmp_path / "two"), SCORES)
    found = read_vocabulary(str(tmp_path / "one"))
    assert (found.analysis, found.tokenizer) == ("analysis", "tokenizer")
    np.testing.assert_array_equal(found.count, SCORES.count)
    np.testing.assert_array_equal(found.mean, SCORES.mean)
    np.testing.assert_array_equal(found.item_scores(), np.array([0, 0, -0.25, 1 / 3], np.float32))
    assert found.item_scores().dtype == np.float32
    assert (tmp_path / "one" / VOCABULARY_FILE).read_bytes() == (tmp_path / "two" / VOCABULARY_FILE).read_bytes()


def test_what_cannot_be_believed_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no scores by vocabulary item here; run `longspan impact` again"):
        read_vocabulary(str(tmp_path))
    where = tmp_path / VOCABULARY_FILE
    where.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"vocabulary\.parquet: not scores by vocabulary item"):
        read_vocabulary(str(tmp_path))
    pq.write_table(pa.table({"count": [1], "mean": [0.5]}), where)
    with pytest.raises(DataError, match=r"not scores by vocabulary item \('analysis'\)"):
        read_vocabulary(str(tmp_path))
    write_vocabulary(str(tmp_path), VocabularyScores("a", "t", np.array([30]), np.array([np.nan])))
    with pytest.raises(DataError, match="a mean is not a number"):
        read_vocabulary(str(tmp_path))
