"""A model's own scaling under every `rope:` section: kept as named, refused, or replaced with a line that says so."""

import dataclasses
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

from longspan.config.model import Rope
from longspan.errors import ConfigError
from longspan.rope import RopeSettings, attention_scaling, inv_freq
from longspan.rope.resolve import RunRope, replacement, run_rope
from tests.rope.pairs import HEAD_DIM, KINDS, PAGE, TARGET, bases, with_table

OPTIONAL: dict[str, list[Any]] = {
    "theta": [None, 8e6],
    "drop_scaling": [False, True],
    "factor": [None, 64.0],
    "original_max_position_embeddings": [None, 16_384],
    "beta_fast": [None, 24.0],
    "low_freq_factor": [None, 1.0],
    "high_freq_factor": [None, 4.0],
    "attention_factor": [None, 1.0, 1.05],
    "long_factor": [None, tuple(float(2 + number) for number in range(32))],
    "short_factor": [None, tuple(1.5 for _ in range(32))],
    "critical_dimension": [None, 14],
    "mixed_window": [False, True],
}
"""Every field of the section beside its type, left out and given."""


def sections(kind: str, pairs: int) -> Iterator[Rope]:
    for values in product(*OPTIONAL.values()):
        given = {name: value for name, value in zip(OPTIONAL, values, strict=True) if value not in (None, False)}
        for name in ("long_factor", "short_factor"):
            if name in given:
                given[name] = given[name][:pairs]
        try:
            yield Rope.model_validate({"type": kind, **given})
        except ValueError:
            continue


def as_named(base: RopeSettings, rope: Rope, length: int, original: int, scale: float) -> tuple[Any, float]:
    """Frequencies and attention scaling at a length where nothing of the model's is lost."""
    named = base if rope.type != "theta" else dataclasses.replace(base, rope_theta=rope.theta or 0)
    if rope.mixed_window and length <= original:
        named = base
    return inv_freq(named, HEAD_DIM, sequence_length=length) / scale, attention_scaling(named)


def run_or_refusal(base: RopeSettings, rope: Rope, window: int) -> RunRope | str:
    try:
        return run_rope(base, rope, HEAD_DIM, window, TARGET)
    except ConfigError as error:
        return str(error)


def assert_kept(base: RopeSettings, rope: Rope, window: int, run: RunRope) -> None:
    original = rope.original_max_position_embeddings or base.original_max_position_embeddings or window
    if base.rope_type == "linear" and not rope.original_max_position_embeddings:
        original = round(window / (base.factor or 1))
    if rope.mixed_window:
        # The length that divides the two RoPEs is said by the section.
        original = run.exported.original_max_position_embeddings or original
    scale = 1.0
    if rope.type == "e2llm":
        scale = rope.factor or -(-TARGET // (rope.original_max_position_embeddings or window))
    for length in (64, original, original + 1, TARGET):
        frequencies, scaling = as_named(base, rope, length, original, scale)
        np.testing.assert_allclose(inv_freq(run.exported, HEAD_DIM, sequence_length=length), frequencies, rtol=1e-6)
        assert attention_scaling(run.exported) == scaling


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_scaling_is_kept_or_refused_or_said(kind: str, share: float) -> None:
    seen: dict[str, int] = {"kept": 0, "refused": 0, "said": 0}
    for rope in sections(kind, int(HEAD_DIM * share) // 2):
        for name, (base, window) in bases(share).items():
            run = run_or_refusal(base, rope, window)
            if isinstance(run, str):
                assert run.startswith(("rope.", "rope:"))
                assert "\n" not in run
                seen["refused"] += 1
                continue
            assert run.exported.partial_rotary_factor == share
            line = replacement(base, rope, run.exported)
            if name == "default":
                assert line is None
            elif line is not None:
                assert line.startswith("rope: ")
                assert "\n" not in line
                # What is lost is named: the whole scaling, or the part of it.
                assert f"({name}, factor " in line or "short_factor" in line
                seen["said"] += 1
            elif run.exported != base:
                assert_kept(base, rope, window, run)
                seen["kept"] += 1
    assert seen["refused"] + seen["said"] + seen["kept"] > 0


def test_the_own_base_of_llama_31_is_llama_31() -> None:
    """It was plain RoPE once, its lowest frequency 8 times as high."""
    base, window = bases()["llama3"]
    rope = Rope(type="theta", theta=base.rope_theta)
    assert run_rope(base, rope, HEAD_DIM, window, TARGET) == RunRope(base, base)
    larger = run_rope(base, Rope(type="theta", theta=8e6), HEAD_DIM, window, TARGET).exported
    assert larger == dataclasses.replace(base, rope_theta=8e6)
    dropped = Rope(type="theta", theta=base.rope_theta, drop_scaling=True)
    assert run_rope(base, dropped, HEAD_DIM, window, TARGET).exported == RopeSettings("default", base.rope_theta)
    assert replacement(base, dropped, RopeSettings("default", base.rope_theta)) == (
        "rope: the model's own scaling (llama3, factor 8 from 8,192 tokens) is dropped; in its place the model has"
        " plain RoPE at base 500,000"
    )


def test_a_scaling_of_the_same_type_keeps_what_the_section_leaves_out() -> None:
    models = bases()
    yarn, window = models["yarn"]
    run = run_rope(yarn, Rope(type="yarn", beta_slow=2.0), HEAD_DIM, window, TARGET)
    assert run.exported == dataclasses.replace(yarn, factor=32.0, beta_slow=2.0)
    deepseek = dataclasses.replace(yarn, attention_factor=None, mscale=0.7, mscale_all_dim=1.0)
    run = run_rope(deepseek, Rope(type="yarn"), HEAD_DIM, window, TARGET)
    assert run.exported == dataclasses.replace(deepseek, factor=32.0)
    llama3, window = models["llama3"]
    assert run_rope(llama3, Rope(type="llama3"), HEAD_DIM, window, TARGET).exported == dataclasses.replace(
        llama3, factor=32.0
    )
    longrope, window = models["longrope"]
    longer = tuple(4.0 + number for number in range(32))
    exported = run_rope(longrope, Rope(type="longrope", long_factor=longer), HEAD_DIM, window, TARGET).exported
    assert (exported.short_factor, exported.long_factor) == (longrope.short_factor, longer)


def test_an_attention_factor_of_the_formula_follows_the_new_factor() -> None:
    base = RopeSettings("yarn", 5e5, factor=4.0, original_max_position_embeddings=8192)
    written = dataclasses.replace(base, attention_factor=round(attention_scaling(base), 6))
    run = run_rope(written, Rope(type="yarn"), HEAD_DIM, 32_768, TARGET)
    assert attention_scaling(run.exported) == attention_scaling(dataclasses.replace(base, factor=32.0))


@pytest.mark.parametrize("name", ["yarn", "longrope"])
def test_the_attention_factor_that_a_refusal_gives_is_one_that_does(name: str) -> None:
    base, window = bases()[name]
    with pytest.raises(ConfigError, match=r"^rope\.mixed_window: .*rope\.attention_factor: [0-9.]+, else") as caught:
        run_rope(base, Rope(type="yarn", mixed_window=True, attention_factor=1.3), HEAD_DIM, window, TARGET)
    advised = float(str(caught.value).rpartition("attention_factor: ")[2].partition(",")[0])
    run_rope(base, Rope(type="yarn", mixed_window=True, attention_factor=advised), HEAD_DIM, window, TARGET)


def test_the_table_of_the_documentation_is_todays() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page), "python -m tests.rope.pairs"
    assert "docs/rope.md" in (PAGE.parents[1] / "README.md").read_text(encoding="utf-8")
