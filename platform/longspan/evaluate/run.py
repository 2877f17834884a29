"""One model, evaluated: needle grid over all lengths and loss by position at the longest, as JSON-able results.

Called after training, by the comparison of methods and by the command line; plots and report read its results.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longspan.config.recipe import Recipe
from longspan.config.tasks import Task
from longspan.corpus.manifest import Manifest, load_manifest
from longspan.errors import ConfigError
from longspan.evaluate.grid import MakeExample, score_grid
from longspan.evaluate.heldout import held_out_documents
from longspan.evaluate.loss import LossCurve, loss_by_position
from longspan.evaluate.needles import has_needle_tokens, task_examples, vocabulary_from_tokenizer
from longspan.evaluate.opening import open_for_evaluation, resolve_device, scale_by_length
from longspan.evaluate.plain_needles import sentence_examples
from longspan.rope import RopeSettings, e2_scale, to_hf

HAYSTACKS = 16
"""Held-out text read for needles, in sequences of the longest length."""


@dataclass(frozen=True)
class EvaluationSettings:
    """What to ask a model.

    Attributes:
        lengths: context lengths of the needle grid in tokens; the loss is measured at the longest.
        text_source: held-out text source of the manifest.
        num_needles: needles a sequence, one in each depth bin.
        examples: needle sequences a length.
        seed: decides the needle sequences, the same for every model.
        rope: settings in place of the checkpoint's own (training-free NTK, PI, YaRN); None keeps those.
        dtype: `float32` or `bfloat16`.
        device: `auto` takes the GPU if there is one.
        batch_tokens: tokens a forward pass.
        loss_windows: held-out windows read for the loss by position.
        buckets: log-spaced buckets of positions.
        drop_sliding_window: see `opening.open_for_evaluation`.
        tasks: harder retrieval, asked beside the needle grid; needs a corpus with needle tokens.
        short_length: window of the short-context loss; None asks for none.
        scale_window: the model's own window in tokens, from which E2-LLM's scale is counted: a length is asked at
            position interpolation by ceil(length / scale_window) over the base of the RoPE that it would have otherwise
            (plain RoPE within the window). None: that RoPE at all lengths.
        scale: the same with one scale at all lengths.
    """

    lengths: tuple[int, ...]
    text_source: str
    num_needles: int = 10
    examples: int = 16
    seed: int = 0
    rope: RopeSettings | None = None
    dtype: str = "bfloat16"
    device: str = "auto"
    batch_tokens: int = 16384
    loss_windows: int = 16
    buckets: int = 16
    drop_sliding_window: bool = False
    tasks: tuple[Task, ...] = ()
    short_length: int | None = None
    scale_window: int | None = None
    scale: int | None = None


def settings_of(recipe: Recipe, device: str = "auto") -> EvaluationSettings:
    """The evaluation that a recipe asks for.

    Raises:
        ConfigError: `evaluate.lengths` or `evaluate.text_source` is not given.
    """
    asked = recipe.evaluate
    if not asked.lengths:
        raise ConfigError("evaluate.lengths: empty; give the context lengths to evaluate, for example [1024, 4096]")
    if asked.text_source is None:
        raise ConfigError("evaluate.text_source: not given; name the manifest's held-out text source")
    return EvaluationSettings(
        lengths=tuple(sorted(set(asked.lengths))),
        text_source=asked.text_source,
        num_needles=asked.needles,
        examples=asked.examples,
        seed=recipe.seed,
        dtype=recipe.model.dtype,
        device=device,
        drop_sliding_window=recipe.model.drop_sliding_window,
        scale_window=recipe.scale_window,
    )


def scales_of(settings: EvaluationSettings) -> dict[int, int]:
    """E2-LLM's scale at each length that is asked, that of the short loss too; empty where none is chosen.

    Raises:
        ConfigError: both a window and a fixed scale are given, or a window below 1 token.
    """
    lengths = sorted({*settings.lengths, *([] if settings.short_length is None else [settings.short_length])})
    if settings.scale_window is None:
        return {} if settings.scale is None else dict.fromkeys(lengths, settings.scale)
    if settings.scale is not None:
        raise ConfigError("evaluate: both a scale and a scale_window are given; the scale is fixed or chosen by length")
    return {length: e2_scale(length, settings.scale_window) for length in lengths}


def evaluate_model(
    model_path: str,
    manifest_uri: str,
    settings: EvaluationSettings,
    *,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Opens the model, asks it, and returns the answers.

    The needles are needle tokens where the corpus's tokenizer has them, and plain sentences otherwise.

    Args:
        model_path: Hugging Face directory (local or s3://) or hub name. Lengths beyond its window are no matter.
        manifest_uri: directory of the prepared corpus, which holds the tokenizer and the held-out text.
        report: called with a line after each length.

    Returns:
        {model, rope, dtype, device, text_source, needle: NeedleGrid.to_dict(), loss_by_position: LossCurve.to_dict(),
        tokens: read by the model, seconds: spent reading them}; with `settings.tasks` also tasks: {name: grid}, with
        `settings.short_length` also short_loss: {length, mean, windows}, with a scale also scales: {length: scale}.

    Raises:
        ConfigError: the model cannot be opened as asked, its tokenizer is not the corpus's, a setting is out of range,
            or its RoPE has no scale to choose.
        DataError: the corpus is damaged or its held-out text too short.
    """
    from longspan.corpus.tokenizer import open_tokenizer

    if not settings.lengths or min(settings.lengths) < 2:
        raise ConfigError(
            f"evaluate.lengths: {list(settings.lengths)}; needs at least one length, each of 2 tokens or more"
        )
    longest, scales = max(settings.lengths), scales_of(settings)
    manifest = load_manifest(manifest_uri)
    budget = longest * max(HAYSTACKS, settings.loss_windows)
    documents = held_out_documents(manifest_uri, manifest, settings.text_source, longest, budget)
    tokenizer = open_tokenizer(manifest_uri, manifest)
    check_tokenizer(model_path, tokenizer)
    device = resolve_device(settings.device)
    model, rope = open_for_evaluation(
        model_path,
        rope=settings.rope,
        dtype=settings.dtype,
        device=device,
        drop_sliding_window=settings.drop_sliding_window,
    )
    check_vocabulary(model, manifest, model_path)
    set_length = scale_by_length(model, rope, scales)
    answers = _ask(model, tokenizer, documents, settings, device, set_length, report)
    asked: dict[str, Any] = {"model": model_path, "rope": to_hf(rope), "dtype": settings.dtype, "device": device}
    if scales:
        asked["scales"] = {str(length): scale for length, scale in scales.items()}
    return {**asked, "text_source": settings.text_source, **answers}


def _ask(
    model: Any,
    tokenizer: Any,
    documents: list[NDArray[np.uint32]],
    settings: EvaluationSettings,
    device: str,
    set_length: Callable[[int], None],
    report: Callable[[str], None] | None,
) -> dict[str, Any]:
    """Grids and losses of an open model, with the tokens it read and the seconds that took."""
    longest = max(settings.lengths)
    start = time.perf_counter()
    grids = {
        task: score_grid(
            model,
            make,
            settings.lengths,
            task=task,
            num_needles=settings.num_needles,
            examples=settings.examples,
            device=device,
            batch_tokens=settings.batch_tokens,
            before_length=set_length,
            report=report,
        ).to_dict()
        for task, make in _questions(tokenizer, np.concatenate(documents), settings).items()
    }
    tokens = len(grids) * settings.examples * sum(set(settings.lengths))

    def loss(length: int, windows: int, buckets: int) -> LossCurve:
        set_length(length)
        return loss_by_position(
            model,
            documents,
            length,
            windows=windows,
            buckets=buckets,
            device=device,
            batch_tokens=settings.batch_tokens,
        )

    curve = loss(longest, settings.loss_windows, settings.buckets)
    if report is not None:
        report(f"loss by position: {longest:,} tokens: {curve.mean:.3f} nats per token")
    tokens += curve.windows * longest
    needle = next(iter(grids))
    answers: dict[str, Any] = {"needle": grids.pop(needle), "loss_by_position": curve.to_dict()}
    if settings.tasks:
        answers["tasks"] = grids
    if settings.short_length is not None:
        short = loss(settings.short_length, settings.loss_windows * max(1, longest // settings.short_length), 1)
        answers["short_loss"] = {"length": short.length, "mean": short.mean, "windows": short.windows}
        tokens += short.windows * short.length
    return {**answers, "tokens": tokens, "seconds": round(time.perf_counter() - start, 3)}


def _questions(tokenizer: Any, text: NDArray[np.uint32], settings: EvaluationSettings) -> dict[str, MakeExample]:
    """What to ask, by name; the needle grid comes first."""
    seed, number = settings.seed, settings.num_needles
    if not has_needle_tokens(tokenizer) and not settings.tasks:
        return {"text": sentence_examples(tokenizer, text, seed, number)}
    vocabulary = vocabulary_from_tokenizer(tokenizer)
    tasks = {str(task): task_examples(task, vocabulary, text, seed, number) for task in settings.tasks}
    return {"tokens": task_examples("recall", vocabulary, text, seed, number), **tasks}


def check_tokenizer(model_path: str, tokenizer: Any) -> None:
    """Raises ConfigError where the model brings a tokenizer that cannot be opened, numbers tokens otherwise than the
    corpus's, or cuts text otherwise.
    """
    from longspan.corpus.tokenizer_files import has_tokenizer, open_tokenizer_files, probe_ids

    if not has_tokenizer(model_path):
        return
    own: Any = open_tokenizer_files(model_path, field="evaluate")
    found, expected = own.get_vocab(), tokenizer.get_vocab()
    different = [token for token in found.keys() | expected.keys() if found.get(token) != expected.get(token)]
    if different:
        token = min(different)
        raise ConfigError(
            f"evaluate: the tokenizer of '{model_path}' is not the corpus's: {len(different)} tokens differ, {token!r}"
            f" is {found.get(token)} there and {expected.get(token)} in the corpus; prepare the corpus with the model's"
            " tokenizer"
        )
    if probe_ids(own) != probe_ids(tokenizer):
        raise ConfigError(
            f"evaluate: the tokenizer of '{model_path}' has the corpus's tokens, but cuts text into others; prepare the"
            " corpus with the model's tokenizer"
        )


def check_vocabulary(model: Any, manifest: Manifest, model_path: str) -> None:
    """Raises ConfigError where the corpus has token ids that the model has no embedding for."""
    rows = model.get_input_embeddings().weight.shape[0]
    if manifest.tokenizer.vocab_size > rows:
        raise ConfigError(
            f"evaluate: '{model_path}' has {rows} token embeddings, the corpus's tokenizer"
            f" {manifest.tokenizer.vocab_size} tokens; evaluate it on a corpus prepared with its own tokenizer"
        )
