"""Reading the token stream back: any range, every damage named, each chunk fetched once."""

import dataclasses
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan import storage
from longspan.corpus import reader as reader_module
from longspan.corpus.manifest import Manifest, load_manifest
from longspan.corpus.reader import TokenReader
from longspan.errors import DataError, StorageError
from longspan.storage import RetryPolicy, use_policy
from tests.corpus_files import random_documents, write_corpus
from tests.s3 import Fault

DOCUMENTS = {
    "books": random_documents(0, [700, 40, 1300, 3, 400, 500, 5000, 60, 70]),
    "needles": random_documents(1, [200] * 15, weighted=True),
}
TOKENS = np.concatenate([document.tokens for own in DOCUMENTS.values() for document in own])
WEIGHT = np.concatenate(
    [
        np.ones(d.tokens.size, np.float32) if d.loss_weight is None else d.loss_weight
        for own in DOCUMENTS.values()
        for d in own
    ]
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    uri = str(tmp_path_factory.mktemp("corpus"))
    return uri, write_corpus(uri, DOCUMENTS, shard_tokens=2500)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def remote(corpus: tuple[str, Manifest], s3_bucket: str) -> tuple[str, Manifest]:
    storage.upload_tree(corpus[0], f"{s3_bucket}/corpus")
    return f"{s3_bucket}/corpus", corpus[1]


@pytest.fixture
def copied(tmp_path: Path) -> tuple[str, Manifest]:
    """A corpus that a test may damage."""
    uri = str(tmp_path / "copied")
    return uri, write_corpus(uri, DOCUMENTS, shard_tokens=2500)


def shard_range(manifest: Manifest, number: int) -> tuple[int, int]:
    ends = np.cumsum([shard.tokens for shard in manifest.shards])
    return int(ends[number]) - manifest.shards[number].tokens, int(ends[number])


def assert_range(found: tuple[np.ndarray, np.ndarray | None], begin: int, end: int) -> None:
    tokens, weight = found
    assert tokens.dtype == np.uint32
    np.testing.assert_array_equal(tokens, TOKENS[begin:end])
    if weight is None:
        assert (WEIGHT[begin:end] == 1).all()
    else:
        assert weight.dtype == np.float32
        np.testing.assert_array_equal(weight, WEIGHT[begin:end])


@st.composite
def ranges(draw: st.DrawFn, manifest: Manifest) -> list[tuple[int, int]]:
    spans = []
    for number in draw(st.lists(st.integers(0, len(manifest.shards) - 1), min_size=1, max_size=12)):
        low, high = shard_range(manifest, number)
        begin = draw(st.integers(low, high))
        spans.append((begin, draw(st.integers(begin, high))))
    return spans


@pytest.mark.parametrize("memory_bytes", [1 << 20, 1])
def test_any_range_of_any_shard(corpus: tuple[str, Manifest], memory_bytes: int) -> None:
    reader = TokenReader(*corpus, memory_bytes=memory_bytes)

    @given(ranges(corpus[1]))
    @settings(deadline=None, max_examples=40)
    def holds(spans: list[tuple[int, int]]) -> None:
        for begin, end in spans:
            assert_range(reader.read(begin, end - begin), begin, end)
        tokens, weight = reader.gather(np.array([b for b, _ in spans]), np.array([e - b for b, e in spans]))
        np.testing.assert_array_equal(tokens, np.concatenate([TOKENS[b:e] for b, e in spans]))
        expected = np.concatenate([WEIGHT[b:e] for b, e in spans])
        np.testing.assert_array_equal(np.ones_like(expected) if weight is None else weight, expected)

    holds()


def test_a_range_inside_a_chunk_is_a_view_that_cannot_be_written(corpus: tuple[str, Manifest]) -> None:
    reader = TokenReader(*corpus)
    one, two = reader.read(0, 100)[0], reader.read(50, 100)[0]
    assert np.shares_memory(one, two)
    with pytest.raises(ValueError, match="read-only"):
        one[0] = 1


def test_only_weighted_shards_have_weights(corpus: tuple[str, Manifest]) -> None:
    reader = TokenReader(*corpus)
    assert reader.gather(np.array([0, 750]), np.array([700, 900]))[1] is None
    begin, _ = shard_range(corpus[1], len(corpus[1].shards) - 1)
    assert_range(reader.gather(np.array([begin]), np.array([150])), begin, begin + 150)


@pytest.mark.parametrize(("begin", "length"), [(-1, 5), (5, -1), (11_000, 74), (11_074, 5), (2400, 200)])
def test_rejects_what_is_not_a_range_of_one_shard(corpus: tuple[str, Manifest], begin: int, length: int) -> None:
    assert TOKENS.size == 11_073
    assert shard_range(corpus[1], 0) == (0, 2443)
    reader = TokenReader(*corpus)
    message = f"tokens {begin} to {begin + length} asked for, which are not of one shard; the corpus has 11073"
    with pytest.raises(DataError, match=message):
        reader.read(begin, length)
    with pytest.raises(DataError, match=message):
        reader.gather(np.array([0, begin]), np.array([5, length]))


def test_neighbouring_chunks_come_in_one_request(
    remote: tuple[str, Manifest], fault_proxy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = TokenReader(*remote)
    proxy = fault_proxy()
    begin, end = shard_range(remote[1], 2)
    assert (begin, end) == (2943, 7943)
    assert_range(reader.read(begin, end - begin), begin, end)
    assert (proxy.num_requests, proxy.num_body_bytes) == (1, 4 * (end - begin))
    # Tokens and weights are a range each.
    begin, end = shard_range(remote[1], 4)
    assert_range(reader.read(begin, end - begin), begin, end)
    assert (proxy.num_requests, proxy.num_body_bytes) == (3, 4 * 5000 + 8 * (end - begin))
    assert_range(reader.read(begin, end - begin), begin, end)
    assert proxy.num_requests == 3
    # At most 1000 tokens: chunks of 500 + 200 + 40, 500 + 500, 300 + 403.
    monkeypatch.setattr(reader_module, "_REQUEST_BYTES", 4000)
    begin, end = shard_range(remote[1], 0)
    proxy.set_faults()
    assert_range(reader.read(begin, end - begin), begin, end)
    assert proxy.num_requests == 3
    assert proxy.num_body_bytes == 4 * (end - begin)


def test_a_gap_between_chunks_is_not_read(remote: tuple[str, Manifest], fault_proxy: Callable[..., Any]) -> None:
    reader = TokenReader(*remote)
    proxy = fault_proxy()
    # Chunks: 500 + 200 of a long document, 40, 500 + 500 + 300, 403.
    tokens, _ = reader.gather(np.array([0, 2100, 800]), np.array([10, 5, 1]))
    np.testing.assert_array_equal(tokens, np.concatenate([TOKENS[:10], TOKENS[2100:2105], TOKENS[800:801]]))
    assert (proxy.num_requests, proxy.num_body_bytes) == (3, 4 * (500 + 500 + 403))


def test_each_chunk_is_fetched_once_for_all_threads(
    remote: tuple[str, Manifest], fault_proxy: Callable[..., Any]
) -> None:
    reader = TokenReader(*remote)
    proxy = fault_proxy()
    begins = np.random.default_rng(0).permutation(np.repeat(np.arange(0, 8000, 100), 3))
    begins = begins[(begins < 2400) | (begins > 2950)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda begin: reader.read(int(begin), 10)[0], begins))
    for begin, tokens in zip(begins, found, strict=True):
        np.testing.assert_array_equal(tokens, TOKENS[begin : begin + 10])
    assert proxy.num_body_bytes <= 4 * 8073


def test_memory_is_bounded(corpus: tuple[str, Manifest]) -> None:
    reader = TokenReader(*corpus, memory_bytes=9000)
    for begin in [*range(0, 2400, 100), *range(2950, 8000, 100)]:
        reader.read(begin, 10)
        assert sum(chunk.num_bytes for chunk in reader._kept.values()) == reader._kept_bytes <= 9000
    assert len(reader._kept) >= 4


@pytest.mark.parametrize("kind", ["flip", "503", "truncate"])
def test_faults_on_the_way_are_survived(
    remote: tuple[str, Manifest], fault_proxy: Callable[..., Any], kind: str, own_cache: Path
) -> None:
    reader = TokenReader(*remote)
    proxy = fault_proxy(Fault(kind, times=3, path="books-00000"))
    with use_policy(RetryPolicy(budget_s=30, first_delay_s=0.001, max_delay_s=0.01)):
        assert_range(reader.read(0, 2443), 0, 2443)
    assert proxy.struck == {kind: 3}
    proxy.set_faults()
    assert_range(TokenReader(*remote).read(0, 2443), 0, 2443)  # and what was kept on disk is right


def test_a_chunk_that_stays_damaged_is_named_with_its_rows(
    remote: tuple[str, Manifest], fault_proxy: Callable[..., Any]
) -> None:
    reader = TokenReader(*remote)
    proxy = fault_proxy(Fault("flip", path="books-00000"))
    message = r"s3://.*books-00000\.parquet, rows 3 to 4: its tokens are not those .* digest [0-9a-f]{32}, found"
    with pytest.raises(DataError, match=message):
        reader.read(2050, 10)
    assert proxy.struck == {"flip": 4}
    proxy.set_faults()
    assert_range(reader.read(2050, 10), 2050, 2060)  # a failure is not kept


@pytest.mark.parametrize(("at", "rows"), [(0, "row 0"), (690, "row 0"), (705, "row 1"), (1999, "row 2")])
def test_the_rows_of_a_chunk_are_those_of_its_documents(copied: tuple[str, Manifest], at: int, rows: str) -> None:
    uri, manifest = copied
    flip(Path(uri, manifest.shards[0].file), manifest.shards[0].tokens_at + 4 * at)
    with pytest.raises(DataError, match=rf"books-00000\.parquet, {rows}: its tokens"):
        TokenReader(uri, manifest).read(at, 1)


def flip(path: Path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def test_every_flipped_byte_is_found(copied: tuple[str, Manifest]) -> None:
    """100 bytes of tokens and weights, anywhere in the corpus, each flipped alone."""
    uri, manifest = copied
    draw = np.random.default_rng(0)
    for _ in range(100):
        number = int(draw.integers(len(manifest.shards)))
        shard = manifest.shards[number]
        places = [place for place in (shard.tokens_at, shard.weights_at) if place is not None]
        at = int(draw.choice(places)) + int(draw.integers(4 * shard.tokens))
        flip(Path(uri, shard.file), at, bit := 1 << int(draw.integers(8)))
        begin, end = shard_range(manifest, number)
        with pytest.raises(DataError, match=rf"{shard.file}, rows? .*: its tokens are not those that were prepared"):
            TokenReader(uri, manifest).read(begin, end - begin)
        flip(Path(uri, shard.file), at, bit)


def test_a_missing_truncated_or_swapped_shard_is_named(copied: tuple[str, Manifest]) -> None:
    uri, manifest = copied
    first, second = (Path(uri, shard.file) for shard in manifest.shards[:2])
    data, other = first.read_bytes(), second.read_bytes()
    for damaged in (data[:9000], b""):
        first.write_bytes(damaged)
        with pytest.raises(
            DataError, match=rf"books-00000\.parquet: {len(damaged)} bytes, but the manifest has {len(data)}"
        ):
            TokenReader(uri, manifest).read(0, 2443)
    for damaged in (bytes(len(data)), other):
        first.write_bytes(damaged)
        with pytest.raises(DataError, match=r"books-00000\.parquet, row 0: its tokens are not those"):
            TokenReader(uri, manifest).read(0, 2443)
    first.unlink()
    with pytest.raises(DataError, match=r"books-00000\.parquet: named in the manifest, but missing"):
        TokenReader(uri, manifest).read(0, 1)


def test_a_store_that_refuses_is_not_called_a_damaged_shard(
    remote: tuple[str, Manifest], fault_proxy: Callable[..., Any]
) -> None:
    reader = TokenReader(*remote)
    fault_proxy(Fault("403", path="books-00000", method="GET"))
    with pytest.raises(StorageError, match="permission denied"):
        reader.read(0, 1)


def test_a_token_outside_the_vocabulary_is_named(copied: tuple[str, Manifest]) -> None:
    uri, manifest = copied
    other = dataclasses.replace(manifest, tokenizer=dataclasses.replace(manifest.tokenizer, vocab_size=900))
    with pytest.raises(DataError, match=r"books-00000\.parquet, row 0: token 9\d\d is outside the vocabulary of 900"):
        TokenReader(uri, other).read(0, 500)


def test_a_damaged_file_of_the_disk_cache_is_fetched_anew(
    remote: tuple[str, Manifest], fault_proxy: Callable[..., Any], own_cache: Path
) -> None:
    TokenReader(*remote).read(0, 2443)
    files = sorted(path for path in own_cache.rglob("*") if path.is_file() and "lock" not in path.name)
    assert sum(path.stat().st_size for path in files) == 4 * 2443
    flip(files[0], 5)
    files[1].write_bytes(b"short")
    proxy = fault_proxy()
    reader = TokenReader(*remote)
    proxy.set_faults()
    assert_range(reader.read(0, 2443), 0, 2443)
    assert 0 < proxy.num_body_bytes <= 2 * 4 * 500
    proxy.set_faults()
    assert_range(TokenReader(*remote).read(0, 2443), 0, 2443)
    assert proxy.num_body_bytes == storage.size(f"{remote[0]}/chunks.parquet")


def read_an_epoch(uri: str, seed: int) -> None:
    """A feed worker: all documents in an order of its own, a few at a time, with little memory."""
    reader = TokenReader(uri, load_manifest(uri), memory_bytes=5000)
    lengths = np.array([document.tokens.size for own in DOCUMENTS.values() for document in own])
    offsets = np.cumsum(lengths) - lengths
    order = np.random.default_rng(seed).permutation(lengths.size)
    for part in np.array_split(order, 6):
        tokens, _ = reader.gather(offsets[part], lengths[part])
        expected = np.concatenate([TOKENS[offsets[i] : offsets[i] + lengths[i]] for i in part])
        np.testing.assert_array_equal(tokens, expected)


def test_the_workers_of_a_node_fetch_each_chunk_once(
    remote: tuple[str, Manifest], fault_proxy: Callable[..., Any]
) -> None:
    uri, manifest = remote
    proxy = fault_proxy()
    workers = [multiprocessing.get_context("fork").Process(target=read_an_epoch, args=(uri, i)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    tables = 3 * (manifest.chunks.bytes + storage.size(f"{uri}/manifest.json"))
    needed = sum(shard.tokens * (4 if shard.weights_at is None else 8) for shard in manifest.shards)
    assert proxy.num_body_bytes - tables <= 1.1 * needed
