"""Sentences are those of the manifest; paragraphs end with a line break, in whatever vocabulary."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from longspan.config.corpus import Tokenizer
from longspan.corpus.encoding import encode
from longspan.corpus.manifest import Manifest
from longspan.corpus.tokenizer import open_tokenizer, store_tokenizer, train_tokenizer
from longspan.feed.segments import segment_ends
from longspan.positions import LongRecipe, PoSE, segment_starts
from tests.corpus_files import random_documents, write_corpus

TEXT = "One sentence. And two!\n\nA line of its own\nSpaced out. \nThe end."
PARAGRAPHS = ["One sentence. And two!\n\n", "A line of its own\n", "Spaced out. \n", "The end."]


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[str, Manifest]:
    """A corpus whose tokenizer was trained on texts with line breaks."""
    uri = str(tmp_path)
    manifest = write_corpus(uri, {"text": random_documents(0, [50])})
    tokenizer = train_tokenizer([TEXT] * 50, Tokenizer(train_vocab_size=290))
    return uri, dataclasses.replace(manifest, tokenizer=store_tokenizer(tokenizer, uri), sentence_end_ids=(3, 5))


def test_paragraphs_end_with_their_lines(corpus: tuple[str, Manifest]) -> None:
    uri, manifest = corpus
    tokenizer = open_tokenizer(uri, manifest)
    ends = segment_ends(uri, manifest, LongRecipe(segments="paragraph"))
    assert (ends.dtype, ends.size) == (np.bool_, manifest.tokenizer.vocab_size)
    tokens = next(iter(encode(tokenizer, [TEXT])))
    pieces = np.split(tokens, segment_starts(tokens, ends)[1:])
    assert [tokenizer.decode(piece) for piece in pieces] == PARAGRAPHS
    assert not ends[tokenizer.all_special_ids].any()


@pytest.mark.parametrize("method", [LongRecipe(), PoSE()], ids=repr)
def test_all_else_takes_the_sentences_of_the_manifest(corpus: tuple[str, Manifest], method: LongRecipe) -> None:
    ends = segment_ends(*corpus, method)
    assert np.flatnonzero(ends).tolist() == [3, 5]
