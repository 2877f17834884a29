"""Selection and LongCE weights in the feed, on real corpus, plan and score files: select, fill up, then segment."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from longspan.config.recipe import Recipe
from longspan.corpus.impact.vocabulary import VocabularyScores, write_vocabulary
from longspan.corpus.index import corpus_table
from longspan.corpus.manifest import Manifest, load_manifest
from longspan.corpus.plan_table import PlanReader, PlanRow
from longspan.corpus.reader import TokenReader
from longspan.errors import ConfigError, DataError
from longspan.feed.batch import MicroBatch
from longspan.feed.scores import check_scores
from longspan.feed.source import FeedSpec, Source, feed_spec
from tests.feed.comparing import assert_all_same
from tests.feed.conftest import STEPS, make_corpus, staged
from tests.impact_files import random_scores, write_scores

LONG, BUDGET = 96, 32
SELECTION = {"mode": "weighted", "from_length": LONG}


class Material(NamedTuple):
    folder: Path
    manifest: Manifest
    tokens: NDArray[np.uint32]
    weights: NDArray[np.float32]
    scores: NDArray[np.float32]

    def recipe(self, run: str, **data: Any) -> Recipe:
        """With the section `data` replaced; its plan is written."""
        values = {"mix": [{"weights": {"text": 1.0, "needles": 1.0}}], **data}
        return staged(str(self.folder / run), str(self.folder / "corpus"), data=values)

    def selecting(self, run: str, **selection: Any) -> Recipe:
        given = {**SELECTION, "scores": str(self.folder / "scores"), **selection}
        return self.recipe(run, selection={name: value for name, value in given.items() if value is not None})


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("selection")
    corpus = make_corpus(str(folder / "corpus"))
    manifest = load_manifest(corpus)
    length = np.array(corpus_table(corpus, manifest).length)
    tokens, weights = TokenReader(corpus, manifest).gather(np.cumsum(length, dtype=np.int64) - length, length)
    assert weights is not None
    scores = random_scores(3, tokens.size)
    write_scores(str(folder / "scores"), corpus, manifest, scores)
    return Material(folder, manifest, tokens, weights, scores)


@pytest.fixture(scope="module")
def spec(material: Material) -> FeedSpec:
    return feed_spec(material.selecting("run"))


@pytest.fixture(scope="module")
def batches(spec: FeedSpec) -> list[MicroBatch]:
    source = Source(spec)
    return [source.micro_batch(k) for k in range(STEPS * spec.micro_batches_per_step)]


@pytest.fixture(scope="module")
def rows(spec: FeedSpec) -> list[PlanRow]:
    return list(PlanReader(spec.plan_uri).rows(0, STEPS * spec.global_batch_size))


class Long(NamedTuple):
    """A planned sample by places in the stream: [num_tokens] each."""

    place: NDArray[np.int64]
    document: NDArray[np.int64]
    sentence: NDArray[np.int64]


def long_sample(material: Material, row: PlanRow) -> Long:
    place = np.concatenate([o + np.arange(n) for o, n in zip(row.offsets, row.lengths, strict=True)])
    document = np.repeat(np.arange(row.lengths.size), row.lengths)
    ends = material.manifest.ends_sentence()[material.tokens[place]]
    is_first = np.concatenate([[True], np.diff(document) > 0])
    is_last = np.append(is_first[1:], True)
    begins = is_first | np.concatenate([[False], ends[:-1] & ~ends[1:]]) & ~is_last
    return Long(place, document, np.cumsum(begins) - 1)


def expected_places(material: Material, row: PlanRow) -> NDArray[np.int64]:
    """Where in the long sample the kept tokens are: the first sentence, then the best means, the last one cut."""
    long = long_sample(material, row)
    gain = np.maximum(material.scores[long.place], 0)
    count = int(long.sentence[-1]) + 1
    means = [gain[long.sentence == number].mean() for number in range(count)]
    kept: list[int] = []
    for number in sorted(range(count), key=lambda n: (n != 0, -means[n])):
        own = np.flatnonzero(long.sentence == number)
        kept += own[: BUDGET - len(kept)].tolist()
    return np.array(sorted(kept))


def kept_rows(batches: list[MicroBatch], name: str) -> NDArray[Any]:
    return np.concatenate([getattr(batch, name) for batch in batches]).reshape(-1, BUDGET)


def test_the_plan_is_one_of_long_samples_and_the_batch_is_the_budget(spec: FeedSpec, rows: list[PlanRow]) -> None:
    assert PlanReader(spec.plan_uri).info.sample_length == LONG
    assert spec.sample_length == BUDGET
    sizes = [int(row.lengths.sum()) for row in rows]
    assert max(sizes) <= LONG
    assert min(sizes) > BUDGET, "every sample has something left out"


def test_the_best_sentences_fill_the_budget_in_order(
    material: Material, batches: list[MicroBatch], rows: list[PlanRow]
) -> None:
    for row, ids in zip(rows, kept_rows(batches, "input_ids"), strict=True):
        places = expected_places(material, row)
        assert places.size == BUDGET
        np.testing.assert_array_equal(ids, material.tokens[long_sample(material, row).place[places]])


def test_no_target_crosses_a_splice_or_a_document(
    material: Material, batches: list[MicroBatch], rows: list[PlanRow]
) -> None:
    splices = 0
    for row, labels, weight in zip(rows, kept_rows(batches, "labels"), kept_rows(batches, "loss_weight"), strict=True):
        long, places = long_sample(material, row), expected_places(material, row)
        is_next = (np.diff(places) == 1) & (np.diff(long.document[places]) == 0)
        splices += int((np.diff(long.document[places])[~is_next] == 0).sum())
        own = material.weights[long.place[places]] if row.source == "needles" else np.ones(BUDGET, np.float32)
        expected = np.append(np.where(is_next, own[1:], 0), 0)
        np.testing.assert_array_equal(weight, expected)
        ids = material.tokens[long.place[places]].astype(np.int32)
        np.testing.assert_array_equal(labels, np.where(expected > 0, np.append(ids[1:], 0), -100))
    assert splices > 20


def test_attention_and_positions_go_across_a_splice_but_not_across_documents(
    material: Material, batches: list[MicroBatch], rows: list[PlanRow]
) -> None:
    by_sample = [rows[b.first_sample : b.first_sample + len(b.input_ids) // BUDGET] for b in batches]
    for batch, own in zip(batches, by_sample, strict=True):
        found = [long_sample(material, row).document[expected_places(material, row)] for row in own]
        borders = [
            n * BUDGET + edge + 1 for n, document in enumerate(found) for edge in np.flatnonzero(np.diff(document))
        ]
        expected = sorted({*borders, *range(0, batch.num_tokens + 1, BUDGET)})
        assert batch.cu_seqlens.tolist() == expected
        starts = batch.cu_seqlens[:-1]
        assert (batch.positions[starts] == 0).all()
        inside = np.setdiff1d(np.arange(1, batch.num_tokens), starts)
        assert (np.diff(batch.positions)[inside - 1] > 0).all()


def test_long_recipe_gaps_open_at_splices_and_sentence_ends_only(material: Material, spec: FeedSpec) -> None:
    recipe = material.selecting("run")
    fewest = recipe.model_copy(update={"positions": recipe.positions.model_copy(update={"min_segments": 1})})
    source = Source(feed_spec(fewest))
    at_splices = 0
    for row in list(PlanReader(spec.plan_uri).rows(0, 16)):
        batch = source.micro_batch(row.sample // 2)
        part = slice(row.sample % 2 * BUDGET, (row.sample % 2 + 1) * BUDGET)
        long, places = long_sample(material, row), expected_places(material, row)
        gaps = np.flatnonzero(np.diff(batch.positions[part]) != 1)
        is_splice, is_end = np.diff(places) != 1, np.diff(long.sentence[places]) != 0
        assert (is_splice | is_end)[gaps].all()
        at_splices += int(
            (is_splice & ~material.manifest.ends_sentence()[material.tokens[long.place[places]]][:-1])[gaps].sum()
        )
    assert at_splices, "also where a cut sentence ends"


@pytest.mark.parametrize("grouping", [1, 4, 8])
def test_a_sample_is_the_same_in_any_micro_batch(spec: FeedSpec, batches: list[MicroBatch], grouping: int) -> None:
    source = Source(dataclasses.replace(spec, micro_batch_size=grouping))
    others = [source.micro_batch(k) for k in range(STEPS * 8 // grouping)]
    for name in ("input_ids", "labels", "positions", "loss_weight"):
        np.testing.assert_array_equal(kept_rows(others, name), kept_rows(batches, name))


def test_asked_together_or_one_by_one_in_any_order(spec: FeedSpec, batches: list[MicroBatch]) -> None:
    order = np.random.default_rng(0).permutation(len(batches)).tolist()
    assert_all_same(Source(spec).micro_batches(order), [batches[k] for k in order])


def test_prefix_keeps_the_first_tokens_and_uniform_depends_on_the_seed(material: Material, rows: list[PlanRow]) -> None:
    plain = {"scores": None}
    prefix = Source(feed_spec(material.selecting("prefix", mode="prefix", **plain))).micro_batches(range(16))
    for row, ids in zip(rows, kept_rows(prefix, "input_ids"), strict=True):
        np.testing.assert_array_equal(ids, material.tokens[long_sample(material, row).place[:BUDGET]])
    uniform = feed_spec(material.selecting("uniform", mode="uniform", **plain))
    first = kept_rows(Source(uniform).micro_batches(range(4)), "input_ids")
    other = kept_rows(Source(dataclasses.replace(uniform, seed=1)).micro_batches(range(4)), "input_ids")
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, kept_rows(prefix, "input_ids")[:8])


def test_longce_weights_are_the_scores_of_the_targets(material: Material) -> None:
    scores = str(material.folder / "scores")
    plain = Source(feed_spec(material.recipe("plain"))).micro_batches(range(16))
    weighed_recipe = material.recipe("weighed", loss_weighting={"scores": scores, "gamma": 3.0})
    weighed = Source(feed_spec(weighed_recipe)).micro_batches(range(16))
    plan = PlanReader(f"{weighed_recipe.run_uri}/plan").rows(0, 32)
    for row, before, after, labels, same in zip(
        plan,
        *(kept_rows(found, name) for name in ("loss_weight", "labels") for found in (plain, weighed)),
        strict=True,
    ):
        np.testing.assert_array_equal(labels, same)
        place = np.concatenate([o + np.arange(n) for o, n in zip(row.offsets, row.lengths, strict=True)])
        factor = np.minimum(np.exp(material.scores[place].astype(np.float64)), 3.0)
        expected = before.copy()
        expected[: place.size - 1] *= factor[1:].astype(np.float32)
        np.testing.assert_allclose(after, expected, rtol=1e-6)


def test_a_weight_that_rounds_to_nothing_keeps_its_target(material: Material) -> None:
    """The loss is divided by the number of targets, so the number may not depend on the weights."""
    folder, tokens = str(material.folder / "hopeless"), material.tokens.size
    write_scores(folder, str(material.folder / "corpus"), material.manifest, np.full(tokens, -60000, np.float32))
    recipe = material.recipe("hopeless-run", loss_weighting={"scores": folder})
    plain = Source(feed_spec(material.recipe("plain-again"))).micro_batch(0)
    found = Source(feed_spec(recipe)).micro_batch(0)
    np.testing.assert_array_equal(found.labels, plain.labels)
    assert (found.loss_weight[found.labels >= 0] > 0).all()
    assert found.loss_weight.max() < 1e-9


def test_selection_and_longce_together_weigh_what_was_kept(
    material: Material, batches: list[MicroBatch], rows: list[PlanRow]
) -> None:
    scores = str(material.folder / "scores")
    both = material.recipe("both", selection={**SELECTION, "scores": scores}, loss_weighting={"scores": scores})
    found = Source(feed_spec(both)).micro_batches(range(16))
    np.testing.assert_array_equal(kept_rows(found, "input_ids"), kept_rows(batches, "input_ids"))
    for row, before, after in zip(
        rows, kept_rows(batches, "loss_weight"), kept_rows(found, "loss_weight"), strict=True
    ):
        place = long_sample(material, row).place[expected_places(material, row)]
        factor = np.minimum(np.exp(material.scores[place]), 5.0)
        np.testing.assert_allclose(after[:-1], before[:-1] * factor[1:], rtol=1e-6)


def write_types(folder: Path, manifest: Manifest, *, analysis: str = "mark") -> NDArray[np.float64]:
    """An analysis of a part of another corpus, and the means of its items: float64 [vocab_size]."""
    other = make_corpus(str(folder / "other"), texts=31)
    of_other = load_manifest(other)
    total = sum(source.tokens for source in of_other.sources.values())
    write_scores(str(folder / "types"), other, of_other, random_scores(8, total), sources=("text",))
    mean = np.random.default_rng(5).normal(size=manifest.tokenizer.vocab_size)
    count = np.full(mean.size, 1000)
    write_vocabulary(str(folder / "types"), VocabularyScores(analysis, manifest.tokenizer.fingerprint, count, mean))
    return mean


def test_by_type_another_text_says_which_tokens_are_impactful(
    material: Material, rows: list[PlanRow], tmp_path: Path
) -> None:
    """1d: LongRecipe analyses once, on some text, and selects from all of its data by token type."""
    mean = write_types(tmp_path, material.manifest)
    recipe = material.selecting("run", scores=str(tmp_path / "types"), score_by="type")
    check_scores(recipe, material.manifest)
    spec = feed_spec(recipe)
    source = Source(spec)
    batches = [source.micro_batch(k) for k in range(STEPS * spec.micro_batches_per_step)]
    by_type = material._replace(scores=mean.astype(np.float32)[material.tokens])
    changed = 0
    for row, found in zip(rows, kept_rows(batches, "input_ids"), strict=True):
        long = long_sample(material, row)
        expected = expected_places(by_type, row)
        np.testing.assert_array_equal(found[: expected.size], material.tokens[long.place[expected]])
        changed += not np.array_equal(expected, expected_places(material, row))
    assert changed > len(rows) / 2


def test_types_of_another_tokenizer_or_analysis_are_refused(material: Material, tmp_path: Path) -> None:
    recipe = material.selecting("run", scores=str(tmp_path / "types"), score_by="type")
    write_types(tmp_path, material.manifest)
    tokenizer = dataclasses.replace(material.manifest.tokenizer, files={"tokenizer.json": "other"})
    with pytest.raises(DataError, match=r"data\.selection\.scores: .*types is of a corpus with another tokenizer"):
        check_scores(recipe, dataclasses.replace(material.manifest, tokenizer=tokenizer))
    write_types(tmp_path, material.manifest, analysis="before")
    with pytest.raises(DataError, match="scored anew since its items were counted"):
        check_scores(recipe, material.manifest)
    with pytest.raises(DataError, match="no scores by vocabulary item here"):
        check_scores(material.selecting("run", score_by="type"), material.manifest)
    with pytest.raises(DataError, match=r"score this one, or set data\.selection\.score_by: type$"):
        check_scores(material.selecting("run", scores=str(tmp_path / "types")), material.manifest)


def test_scores_made_anew_since_the_launch_are_refused(material: Material, tmp_path: Path) -> None:
    corpus = str(material.folder / "corpus")
    write_scores(str(tmp_path), corpus, material.manifest, material.scores)
    spec = feed_spec(material.selecting("anew", scores=str(tmp_path)))
    write_scores(str(tmp_path), corpus, material.manifest, material.scores, mark="other")
    with pytest.raises(DataError, match="scored anew since the run began; restore those scores, or give"):
        Source(spec)


def test_scores_are_checked_before_anything_starts(material: Material, tmp_path: Path) -> None:
    corpus, total = str(material.folder / "corpus"), material.tokens.size
    check_scores(material.selecting("run"), material.manifest)
    other = make_corpus(str(tmp_path / "other"), texts=31)
    with pytest.raises(DataError, match=r"data\.selection\.scores: .*scores holds the scores of another corpus than"):
        check_scores(material.selecting("run"), load_manifest(other))
    for changes, error, message in (
        ({"sources": ("text",)}, DataError, "not hold the scores of all of source 'needles'"),
        ({"documents": 20}, DataError, "not hold the scores of all of source 'text'"),
        ({"measure": "logit"}, ConfigError, r"data\.loss_weighting\.scores: .* differences of logits; LongCE needs"),
    ):
        folder = str(tmp_path / next(iter(changes)))
        write_scores(folder, corpus, material.manifest, random_scores(0, total), **changes)
        with pytest.raises(error, match=message):
            check_scores(material.recipe("run", loss_weighting={"scores": folder}), material.manifest)


def test_a_plan_of_another_length_is_refused(material: Material) -> None:
    recipe = material.selecting("run")
    assert recipe.data.selection is not None
    longer = recipe.data.selection.model_copy(update={"from_length": 128})
    data = recipe.data.model_copy(update={"selection": longer})
    with pytest.raises(DataError, match=r"samples of 96 tokens, but data\.selection\.from_length is 128"):
        feed_spec(recipe.model_copy(update={"data": data}))
