"""What an analysis says of each vocabulary item: LongRecipe's impactful token types, for texts that were not scored.

`impact.statistics` adds it up once from the scores of some text (2409.00509, Eq. 3), `longspan impact` leaves it beside
them; the feed then selects sentences of any corpus with the same tokenizer by it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.errors import DataError

VOCABULARY_FILE = "vocabulary.parquet"
LEAST_COUNT = 20
"""Items that were scored less often have no mean to go by: they weigh 0."""


@dataclass(frozen=True)
class VocabularyScores:
    """Scores of an analysis by vocabulary item.

    Attributes:
        analysis: its fingerprint.
        tokenizer: fingerprint of the tokenizer of its corpus.
        count: int64 [vocab_size], tokens that were scored.
        mean: float64 [vocab_size], their mean score; 0 where there are none.
    """

    analysis: str
    tokenizer: str
    count: NDArray[np.int64]
    mean: NDArray[np.float64]

    def item_scores(self) -> NDArray[np.float32]:
        """Score of each item as a token, float32 [vocab_size]: its mean, 0 for items below `LEAST_COUNT`."""
        return np.where(self.count >= LEAST_COUNT, self.mean, 0).astype(np.float32)


def write_vocabulary(uri: str, scores: VocabularyScores) -> None:
    """Write it into the folder of the analysis, local or s3://; the same bytes for the same scores."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"count": pa.array(scores.count), "mean": pa.array(scores.mean)})
    table = table.replace_schema_metadata({"analysis": scores.analysis, "tokenizer": scores.tokenizer})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    storage.write_bytes(storage.join(uri, VOCABULARY_FILE), bytes(sink.getvalue()))


def read_vocabulary(uri: str) -> VocabularyScores:
    """That of the analysis at `uri`.

    Raises:
        DataError: it is missing or damaged.
        StorageError: the store could not be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = storage.join(uri, VOCABULARY_FILE)
    again = "run `longspan impact` again, which then only counts"
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(where)))
        said = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        count, mean = (table[name].to_numpy() for name in ("count", "mean"))
        found = VocabularyScores(said["analysis"], said["tokenizer"], count.astype(np.int64), mean.astype(np.float64))
    except storage.NotFoundError:
        raise DataError(f"{where}: no scores by vocabulary item here; {again}") from None
    except (pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: not scores by vocabulary item ({' '.join(str(error).split())}); {again}") from None
    if not np.isfinite(found.mean).all():
        raise DataError(f"{where}: a mean is not a number; {again}")
    return found
