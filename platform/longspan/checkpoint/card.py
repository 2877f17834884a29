"""The model card (README.md) of every model that longspan writes: where it comes from, what it is, how to serve it.

`train` and `merge` write it with the model, `launch` and `recipes` add the evaluation that comes after. Text only, by
huggingface_hub's ModelCard; nothing in it names a place on the machine.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from longspan import storage
from longspan.config.recipe import Recipe
from longspan.model.companions import CARD, Write
from longspan.model.limits import Window
from longspan.rope import RopeSettings, config_keys, to_hf

_FROM_BASE = ("license", "license_name", "license_link", "language")
_TAG = "longspan"
_EVALUATION = "Evaluation"
_AND = " + "
_FOLDER = "path/to/this/folder"
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""
Rows = Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Origin:
    """A source model as a card may name it.

    Attributes:
        name: on the hub, or the last part of a directory's path; of a merge, those of both with " + " between.
        revision: commit or tag on the hub, where it is known.
        through: the run of longspan that made of it what is the source here, if one did.
        metadata: licence and languages, from its own card.
    """

    name: str
    revision: str | None = None
    through: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def origin_of(path: str, revision: str | None, folder: Path) -> Origin:
    """The source model at `path` (directory, s3:// or hub name), whose files are in the local `folder`.

    One that longspan made has the name, revision and licence that its own card gives as those of its base.
    """
    known = _metadata(folder / CARD)
    metadata = {key: known[key] for key in _FROM_BASE if _is_plain(known.get(key))}
    base: Any = known.get("base_model")
    name, found = _name(path)
    if _TAG in (known.get("tags") or []) and _is_plain(base):
        first = base if isinstance(base, str) else _AND.join(base)
        return Origin(first, known.get("base_model_revision"), name, metadata)
    return Origin(name, revision or found, None, metadata)


def _metadata(card: Path) -> dict[str, Any]:
    """The YAML at the head of a card; {} where there is no card or it cannot be read: it is only told on."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        content = card.read_text(encoding="utf-8-sig") if card.is_file() else ""
        data = ModelCard(content, ignore_metadata_errors=True).data.to_dict() if content.startswith("---") else {}
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return {}
    return dict(data)


def _is_plain(value: Any) -> bool:
    values = value if isinstance(value, list) and value else [value]
    return all(isinstance(text, str) and 0 < len(text) < 200 and text.isprintable() for text in values)


def _name(path: str) -> tuple[str, str | None]:
    """Name and revision of a model by where it lies: the hub's cache says both."""
    is_place = storage.is_remote(path) or Path(path).is_dir()
    parts = PurePosixPath(path.rstrip("/")).parts
    if not is_place:
        return path, None
    if len(parts) > 2 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        return parts[-3].removeprefix("models--").replace("--", "/"), parts[-1]
    last = parts[-2] if parts[-1] == "checkpoint" and len(parts) > 1 else parts[-1]
    return last, None


def train_card(
    recipe: Recipe, origin: Origin, settings: RopeSettings, window: Window, notes: Sequence[str] = ()
) -> str:
    """The card of a run's checkpoint.

    Args:
        settings, window: of the exported model.
        notes: what readers of the model should know, a line each.
    """
    if recipe.model.weights == "random":
        what, origins = f"A model of {window.new:,} tokens, trained from random weights", []
    elif window.new > window.old:
        what = f"{_link(origin)} with its context window extended from {window.old:,} to {window.new:,} tokens"
        origins = [origin]
    else:
        what, origins = f"{_link(origin)}, trained further at its window of {window.new:,} tokens", [origin]
    sections = {
        "Context window": _window_section(settings, window),
        "Training": _table(("setting", "value"), _training(recipe)),
        "Use": _use(window.new, notes),
        **_licence_section(*origins),
    }
    return _card(recipe.name, _data(origins), f"{what}, by longspan.", sections)


def adapter_card(
    recipe: Recipe, origin: Origin, settings: RopeSettings, window: Window, notes: Sequence[str] = ()
) -> str:
    """The card of the LoRA adapter of a run; see `train_card`."""
    source = origin.through or origin.name
    load = [
        "from peft import PeftModel",
        "from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer",
        f'config = AutoConfig.from_pretrained("{_FOLDER}")',
        f'base = AutoModelForCausalLM.from_pretrained({json.dumps(source)}, config=config, dtype="auto")',
        f'model = PeftModel.from_pretrained(base, "{_FOLDER}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{_FOLDER}")',
    ]
    use = "\n".join(
        [
            "The adapter goes with the RoPE of the config.json beside it. On the base's own config.json it is wrong"
            " without a word, so open the base with this one:",
            "",
            *_code("python", load),
            "",
            *_serve_adapter(recipe, settings, source, window),
            "`checkpoint/` of the same run has the adapter folded into the weights, for every other reader.",
            *_list(notes),
        ]
    )
    sections = {
        "Context window": _window_section(settings, window),
        "Training": _table(("setting", "value"), _training(recipe)),
        "Use": use,
        **_licence_section(origin),
    }
    what = f"A LoRA adapter for {_link(origin)} that extends its context window to {window.new:,} tokens, by longspan."
    data = _data([origin], relation="adapter", library="peft", tags=["lora"])
    return _card(recipe.name, data, what, sections)


def _serve_adapter(recipe: Recipe, settings: RopeSettings, base: str, window: Window) -> list[str]:
    """vLLM's command, where it can: it takes matrices alone, of some ranks, and a window that config.json names."""
    lora = recipe.model.lora
    rank = next((rank for rank in _VLLM_RANKS if lora is not None and rank >= lora.rank), None)
    if lora is None or lora.also_train or rank is None or settings.rope_type == "dynamic":
        return []
    command = [
        f"vllm serve {base} --max-model-len {window.new} --enable-lora --max-lora-rank {rank} \\",
        f"  --lora-modules adapter={_FOLDER} \\",
        f"  --hf-overrides \"$(jq -c '{{max_position_embeddings, rope_parameters}}' {_FOLDER}/config.json)\"",
    ]
    return ["vLLM:", "", *_code("sh", command), ""]


def merge_card(
    name: str,
    sides: Mapping[str, Origin],
    settings: RopeSettings,
    window: int,
    choices: Rows,
    notes: Sequence[str] = (),
) -> str:
    """The card of an average of two models.

    Args:
        sides: `a` and `b`.
        window: of the result, in tokens.
        choices: what was chosen for the merge, as rows of its table.
    """
    rows = [*((side, _link(origin)) for side, origin in sides.items()), *choices]
    sections = {
        "Merge": _table(("setting", "value"), rows),
        "Context window": _window_section(settings, Window(window, window)),
        "Use": _use(window, notes),
        **_licence_section(*sides.values()),
    }
    return _card(name, _data(list(sides.values()), relation="merge", tags=["merge"]), _MERGED, sections)


_MERGED = "The average of two models, tensor by tensor, by longspan: (1 - weight) * a + weight * b."


def add_evaluation(uri: str, evaluation: Mapping[str, Any]) -> None:
    """Write what a model answered (`evaluate.run.evaluate_model`) into the card beside it, in the place of an earlier
    evaluation; a model without a card stays so.
    """
    card = storage.join(uri, CARD)
    if storage.exists(card):
        storage.write_text(card, with_evaluation(storage.read_text(card), evaluation))


def with_evaluation(text: str, evaluation: Mapping[str, Any]) -> str:
    """The card with the evaluation in its metadata and as a section before the last ones."""
    from huggingface_hub import EvalResult, ModelCard

    card: Any = ModelCard(text, ignore_metadata_errors=True)
    needle, loss = evaluation["needle"], evaluation["loss_by_position"]
    found = dict(zip(needle["lengths"], needle["mean"], strict=True))
    title = re.search(r"^# (.+)$", card.text, re.MULTILINE)
    card.data.model_name = title[1] if title else _TAG

    def result(dataset: str, metric: str, value: float, length: int) -> Any:
        name = f"{dataset}, {length} tokens"
        return EvalResult("text-generation", dataset, name, metric, value, dataset_config=f"{length} tokens")

    card.data.eval_results = [
        *(result("needles", "accuracy", mean, length) for length, mean in found.items()),
        result("held-out-text", "loss", loss["mean"], loss["length"]),
    ]
    scales = evaluation.get("scales") or {}
    head = ("context length", "needles found", *(["E2-LLM's scale"] if scales else []))
    rows = [
        (f"{length:,}", f"{mean:.1%}", *([scales.get(str(length), "")] if scales else []))
        for length, mean in found.items()
    ]
    section = _table(head, rows) + (
        f"\n\nLoss on held-out text at {loss['length']:,} tokens: {loss['mean']:.4f} nats a token"
        f" ({loss['windows']} windows). {needle['examples']} examples a length, {evaluation['dtype']}."
    )
    sections = {title: body for title, body in _split(card.text).items() if title != _EVALUATION}
    ordered = {}
    for name, body in sections.items():
        if name == "Use":
            ordered[_EVALUATION] = section
        ordered[name] = body
    card.text = _join(ordered if _EVALUATION in ordered else {**sections, _EVALUATION: section})
    return str(card)


def as_file(card: str) -> dict[str, Write]:
    """The card as a file to be written beside a model."""
    return {CARD: partial(_write, card)}


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _data(
    origins: Sequence[Origin],
    relation: str = "finetune",
    library: str = "transformers",
    tags: Sequence[str] = (),
) -> Any:
    from huggingface_hub import ModelCardData

    names = list(dict.fromkeys(name for origin in origins for name in origin.name.split(_AND)))
    values: dict[str, Any] = dict(origins[0].metadata) if origins else {}
    if len({origin.metadata.get("license") for origin in origins}) > 1:  # the text names them
        values = {key: value for key, value in values.items() if not key.startswith("license")}
    if len(names) == 1 and origins[0].revision:
        values["base_model_revision"] = origins[0].revision
    return ModelCardData(
        base_model=names[0] if len(names) == 1 else names or None,
        base_model_relation=relation if names else None,
        library_name=library,
        pipeline_tag="text-generation",
        tags=[_TAG, "long-context", *tags],
        **values,
    )


def _training(recipe: Recipe) -> Rows:
    train, data = recipe.train, recipe.data
    lora = recipe.model.lora
    trained = "all weights" if lora is None else f"LoRA of rank {lora.rank} on {', '.join(lora.targets)}"
    if lora is not None and lora.also_train:
        trained += f", and {', '.join(lora.also_train)} whole"
    return [
        ("positions", recipe.positions.type),
        ("RoPE", recipe.rope.type),
        ("steps", f"{train.steps:,}"),
        ("samples a step", f"{train.global_batch_size:,}"),
        ("tokens a sample", f"{data.sample_length:,}"),
        ("positions reach to", f"{data.target_length:,}"),
        ("tokens trained", f"{recipe.num_samples * data.sample_length:,}"),
        ("trained", trained),
        ("learning rate", f"{train.learning_rate:g}"),
        ("type of the weights", recipe.model.dtype),
        ("seed", recipe.seed),
    ]


def _window_section(settings: RopeSettings, window: Window) -> str:
    lines = [f"{window.new:,} tokens" + (f", {window.old:,} before." if window.old != window.new else "."), ""]
    lines += ["RoPE:", "", *_code("json", [json.dumps(to_hf(settings), indent=2)])]
    written = config_keys(settings, window.new)["rope_parameters"]["rope_type"]
    if written != settings.rope_type:
        lines += [
            "",
            f"config.json has the same frequencies as a `{written}` that divides all of them: of a"
            f" `{settings.rope_type}` some readers multiply the window by the factor once more.",
        ]
    return "\n".join(lines)


def _use(window: int, notes: Sequence[str]) -> str:
    load = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f'tokenizer = AutoTokenizer.from_pretrained("{_FOLDER}")',
        f'model = AutoModelForCausalLM.from_pretrained("{_FOLDER}", dtype="auto")',
    ]
    # A note that has vLLM's flags knows better than the window alone.
    flags = "" if any("--max-model-len" in note for note in notes) else f" --max-model-len {window}"
    serve = [f"vllm serve {_FOLDER}{flags}"]
    return "\n".join([*_code("python", load), "", *_code("sh", serve), *_list(notes)])


def _list(notes: Sequence[str]) -> list[str]:
    return ["", *(f"- {note}" for note in notes)] if notes else []


def _licence_section(*origins: Origin) -> dict[str, str]:
    if not origins:
        return {}
    known = {origin.name: origin.metadata.get("license_name") or origin.metadata.get("license") for origin in origins}
    text = "; ".join(f"{name}: {licence or 'not said in its card'}" for name, licence in known.items())
    return {"Licence": f"That of what it was made from ({text})."}


def _link(origin: Origin) -> str:
    told = [f"revision {origin.revision}"] if origin.revision else []
    told += [f"as {origin.through} made it"] if origin.through else []
    return f"{origin.name} ({', '.join(told)})" if told else origin.name


def _code(language: str, lines: Sequence[str]) -> list[str]:
    return [f"```{language}", *lines, "```"]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in cells)


def _card(name: str, data: Any, first: str, sections: Mapping[str, str]) -> str:
    from huggingface_hub import ModelCard

    body = _join({"": f"# {name}\n\n{first}", **sections})
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{body}"))


def _split(body: str) -> dict[str, str]:
    """Sections by their titles; what stands before the first has the title ""."""
    first, *rest = re.split(r"^## ", body, flags=re.MULTILINE)
    return {"": first.strip(), **{title.strip(): text.strip() for title, _, text in (p.partition("\n") for p in rest)}}


def _join(sections: Mapping[str, str]) -> str:
    return "\n" + "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in sections.items()) + "\n"
