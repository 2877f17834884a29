"""Held-out text from a prepared corpus: documents of one source, the long ones first.

The only place of this room that opens a corpus; everything else works on plain arrays.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from longspan.corpus.index import corpus_table, document_offset
from longspan.corpus.manifest import Manifest
from longspan.corpus.reader import TokenReader
from longspan.errors import ConfigError


def check_held_out(
    manifest: Manifest,
    source: str,
    lengths: Sequence[int],
    fields: tuple[str, str] = ("evaluate.text_source", "evaluate.lengths"),
) -> None:
    """Is there such a source, with enough text for the longest of `lengths`, in tokens?

    Args:
        fields: that name the source and the lengths, for messages.

    Raises:
        ConfigError: it is not; names the field.
    """
    if source not in manifest.sources:
        raise ConfigError(
            f"{fields[0]}: '{source}' is no source of the corpus; it has {', '.join(manifest.source_names)}"
        )
    there = manifest.sources[source].tokens
    if max(lengths) > there:
        raise ConfigError(
            f"{fields[1]}: {max(lengths)} tokens, but source '{source}' has {there}; give shorter lengths, or a larger"
            " source of held-out text"
        )


def held_out_documents(
    manifest_uri: str, manifest: Manifest, source: str, longest: int, budget: int
) -> list[NDArray[np.uint32]]:
    """Documents of `source`, about `budget` tokens of them, the same for every model.

    Args:
        manifest_uri: directory of the corpus, local or s3://.
        source: name of a text source that was kept out of training.
        longest: tokens of the longest sequence to be cut from one; documents that hold it come before others.

    Returns:
        token ids uint32 [num_tokens] of each document, in the corpus's order.

    Raises:
        ConfigError: no such source, one that is too short, or that holds needle tokens itself.
        DataError: the corpus is damaged.
    """
    check_held_out(manifest, source, [longest])
    table = corpus_table(manifest_uri, manifest)
    place = manifest.source_names.index(source)
    first = int(table.source_documents[:place].sum())
    lengths = np.asarray(table.length[first : first + int(table.source_documents[place])])
    begins = document_offset(table, first) + np.cumsum(lengths, dtype=np.int64) - lengths
    numbers, sizes = np.array(choose_documents(lengths, longest, budget), np.int64).reshape(-1, 2).T
    tokens, _ = TokenReader(manifest_uri, manifest).gather(begins[numbers], sizes)
    documents = np.split(tokens, np.cumsum(sizes)[:-1])
    check_plain(documents, source, manifest.tokenizer.needle_first_id)
    return documents


def choose_documents(lengths: NDArray[np.int32], longest: int, budget: int) -> list[tuple[int, int]]:
    """(number, tokens to read) of the documents chosen from `lengths` [num_documents], in rising order of number.

    First those of at least `longest` tokens, then the others, each in the order given, until `budget` tokens are
    chosen; the last one is cut to fit.
    """
    is_short = lengths < longest
    order = np.argsort(is_short, kind="stable")
    before = np.cumsum(lengths[order], dtype=np.int64) - lengths[order]
    return sorted(
        (int(number), int(min(lengths[number], budget - start)))
        for number, start in zip(order, before, strict=True)
        if start < budget
    )


def check_plain(documents: list[NDArray[np.uint32]], source: str, needle_first_id: int | None) -> None:
    """Raises ConfigError where held-out text holds needle tokens: they would contradict the needles hidden in it."""
    if needle_first_id is not None and any((document >= needle_first_id).any() for document in documents):
        raise ConfigError(
            f"evaluate.text_source: '{source}' holds needle tokens; give a text source, which the needles are hidden in"
        )
