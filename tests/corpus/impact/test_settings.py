import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import longspan
from longspan.corpus.impact.settings import ScoreSettings, score_fingerprint
from longspan.errors import ConfigError

GOOD = ScoreSettings(model="m", window=1024, short_prefix=256, stride=128)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 1}, r"^impact\.window: 1; must be at least 2"),
        ({"stride": 0}, r"^impact\.stride: 0"),
        ({"documents": 0}, r"^impact\.documents: 0"),
        ({"measure": "probability"}, r"^impact\.measure: 'probability'; must be one of logprob, logit"),
        ({"dtype": "float16"}, r"^impact\.dtype: 'float16'"),
        ({"short_prefix": None}, r"give base, a model with a shorter context, or short_prefix"),
        ({"short_prefix": 400}, r"400 \+ stride 128 is more than half of window 1024"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(GOOD, **changes)


OTHERS: list[dict[str, Any]] = [
    {"window": 2048},
    {"short_prefix": 255},
    {"stride": 64},
    {"measure": "logit"},
    {"sources": ("a",)},
    {"documents": 3},
    {"part_tokens": 7},
    {"dtype": "float32"},
    {"drop_sliding_window": True},
]


def test_the_first_token_that_can_score() -> None:
    assert GOOD.first_scored == 256 + 128
    assert dataclasses.replace(GOOD, base="b").first_scored == 1
    assert ScoreSettings(model="m", base="b", window=8).first_scored == 1


def test_the_fingerprint_is_of_the_models_content_and_of_everything_else() -> None:
    models = {"model": "digest"}
    mark = score_fingerprint(GOOD, "corpus", models)
    assert score_fingerprint(dataclasses.replace(GOOD, model="elsewhere"), "corpus", models) == mark
    others = [
        score_fingerprint(GOOD, "another corpus", models),
        score_fingerprint(GOOD, "corpus", {"model": "another digest"}),
        score_fingerprint(GOOD, "corpus", {"model": "digest", "base": "digest"}),
        *(score_fingerprint(dataclasses.replace(GOOD, **changes), "corpus", models) for changes in OTHERS),
    ]
    assert len({mark, *others}) == 1 + len(others)


def test_those_who_make_batches_need_not_load_torch() -> None:
    """`reader`, `selection` and `longce` run in the workers of the feed, many to a machine."""
    names = ", ".join(f"longspan.corpus.impact.{name}" for name in ("reader", "selection", "longce"))
    code = f"import sys, {names}; print(*sorted({{'torch', 'transformers', 'ray', 'matplotlib'}} & set(sys.modules)))"
    folder = Path(longspan.__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    assert found.stdout.split() == []
