import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from longspan.corpus.impact.reader import ImpactReader
from longspan.corpus.impact.settings import ScoreSettings
from longspan.corpus.manifest import load_manifest
from longspan.corpus.reader import TokenReader
from longspan.corpus.tokenizer import open_tokenizer
from longspan.errors import ConfigError, DataError
from longspan.impact.plots import plot_statistics
from longspan.impact.run import score_corpus
from longspan.impact.statistics import ImpactStatistics, collect_statistics, vocabulary_scores, write_statistics
from longspan.impact.token_types import vocabulary_types
from tests.impact.conftest import Material, TextMaterial
from tests.impact.test_part_of_speech import tag_words
from tests.tiny import tiny_model_directory


@pytest.fixture(scope="module")
def statistics(text_material: TextMaterial) -> ImpactStatistics:
    return collect_statistics(text_material.impact, text_material.corpus, tagger=tag_words, min_count=5)


def scored_tokens(material: TextMaterial) -> list[tuple[int, int, float]]:
    """(position, token, score) of every token that has a score, one after the other."""
    manifest = load_manifest(material.corpus)
    reader, scores = TokenReader(material.corpus, manifest), ImpactReader(material.impact, manifest)
    rows = []
    for part in material.manifest.parts:
        lengths = scores.part(material.manifest.parts.index(part)).length
        offset = part.offset
        for place, length in enumerate(lengths.tolist()):
            tokens, _ = reader.gather(np.array([offset]), np.array([length]))
            values = scores.scores(part.first_document + place, 0, length)
            rows += [(p, int(tokens[p]), float(values[p])) for p in range(16, length)]
            offset += length
    return rows


def test_counts_are_those_of_a_plain_loop(text_material: TextMaterial, statistics: ImpactStatistics) -> None:
    rows = scored_tokens(text_material)
    manifest = load_manifest(text_material.corpus)
    tokenizer = open_tokenizer(text_material.corpus, manifest)
    types = vocabulary_types(tokenizer, manifest.tokenizer)
    by_range: dict[int, list[float]] = defaultdict(list)
    for position, _, score in rows:
        by_range[position.bit_length()].append(score)

    def is_top(position: int, score: float) -> bool:
        """At most a fifth of the range scores as much."""
        values = by_range[position.bit_length()]
        return sum(value >= score for value in values) <= 0.2 * len(values)

    name = [types.names[types.type_of[token]] for _, token, _ in rows]
    top = [is_top(position, score) for position, _, score in rows]
    assert statistics.tokens == len(rows)
    assert statistics.top == sum(top)
    assert 0.1 < statistics.top / statistics.tokens <= 0.2
    assert {kind.name: kind.count for kind in statistics.by_type} == Counter(name)
    assert {kind.name: kind.top for kind in statistics.by_type if kind.top} == Counter(
        each for each, one in zip(name, top, strict=True) if one
    )
    numbers = next(kind for kind in statistics.by_type if kind.name == "number")
    expected = np.mean([score for each, (_, _, score) in zip(name, rows, strict=True) if each == "number"])
    assert numbers.mean == pytest.approx(expected, rel=1e-6)
    assert "needle" in Counter(name)

    items = Counter(token for _, token, _ in rows)
    means = {token: np.mean([s for _, t, s in rows if t == token]) for token in items if items[token] >= 5}
    best = max(means, key=lambda token: means[token])
    assert statistics.vocabulary[0].name == tokenizer.convert_ids_to_tokens(best)
    assert statistics.vocabulary[0].count == items[best]
    assert [kind.mean for kind in statistics.vocabulary] == sorted((float(m) for m in means.values()), reverse=True)


def test_means_of_the_items_are_those_of_a_plain_loop(text_material: TextMaterial) -> None:
    manifest = load_manifest(text_material.corpus)
    by_item: dict[int, list[float]] = defaultdict(list)
    for _, token, score in scored_tokens(text_material):
        by_item[token].append(score)
    found = vocabulary_scores(text_material.impact, text_material.corpus)
    assert (found.analysis, found.tokenizer) == (text_material.manifest.fingerprint, manifest.tokenizer.fingerprint)
    assert found.count.tolist() == [len(by_item[item]) for item in range(manifest.tokenizer.vocab_size)]
    for item, values in by_item.items():
        assert found.mean[item] == pytest.approx(np.mean(values) if values else 0, abs=1e-12)


def test_parts_of_speech(statistics: ImpactStatistics) -> None:
    speech = statistics.by_part_of_speech
    assert speech is not None
    assert {kind.name for kind in speech} == {"NOUN", "NUM", "X", "SPACE"}
    assert statistics.untagged_documents == 0
    assert sum(kind.count for kind in speech) == statistics.tokens
    assert sum(kind.top for kind in speech) == statistics.top
    assert [kind.lift for kind in speech] == sorted((kind.lift for kind in speech), reverse=True)
    numbers = next(kind for kind in statistics.by_type if kind.name == "number")
    assert next(kind for kind in speech if kind.name == "NUM").count == numbers.count


def test_by_position(statistics: ImpactStatistics) -> None:
    firsts = [first for first, _ in statistics.by_position]
    assert firsts[0] == 16
    assert all(later == 2 * first for first, later in pairwise(firsts))
    for _, shares in statistics.by_position:
        assert sum(shares.values()) == pytest.approx(1)


def test_without_a_tagger_and_as_json_and_picture(
    text_material: TextMaterial, statistics: ImpactStatistics, tmp_path: Path
) -> None:
    plain = collect_statistics(text_material.impact, text_material.corpus, min_count=5)
    assert plain.by_part_of_speech is None
    assert plain.by_type == statistics.by_type
    write_statistics(plain, str(tmp_path / "statistics.json"))
    values = json.loads((tmp_path / "statistics.json").read_text())
    assert values["by_position"][0]["from"] == 16
    assert values["by_type"][0]["name"] == plain.by_type[0].name
    for each, name in ((plain, "types.png"), (statistics, "speech.png")):
        plot_statistics(each, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "types.png").read_bytes() != (tmp_path / "speech.png").read_bytes()


def test_what_cannot_be_counted_is_said(text_material: TextMaterial, material: Material, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^impact\.top_share: 1"):
        collect_statistics(text_material.impact, text_material.corpus, top_share=1)
    with pytest.raises(DataError, match="the scores are those of another corpus"):
        collect_statistics(text_material.impact, material.corpus)
    model = tiny_model_directory(tmp_path / "model", vocab_size=900, max_position_embeddings=4096)
    settings = ScoreSettings(model=str(model), window=4096, short_prefix=1500, stride=500)
    score_corpus(text_material.corpus, str(tmp_path / "none"), settings)
    with pytest.raises(DataError, match="no token has a score: every document is within the short prefix"):
        collect_statistics(str(tmp_path / "none"), text_material.corpus)
