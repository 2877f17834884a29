"""From a YAML file and dotted overrides to a validated section; every mistake becomes one line that names the field."""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from longspan.config.recipe import Recipe
from longspan.errors import ConfigError, TopologyError

MAX_CONFIG_BYTES = 1_000_000
T = TypeVar("T", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice and aliases, whose expansion can exhaust memory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if not isinstance(key, str):
                raise yaml.YAMLError(f"key {key!r} at line {key_node.start_mark.line + 1} is not text")
            if key in seen:
                raise yaml.YAMLError(f"key '{key}' is given twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"alias at line {self.peek_event().start_mark.line + 1}: write the value out")
        return super().compose_node(parent, index)


def _load_yaml(text: str) -> Any:
    """Raises ValueError: PyYAML has several errors for a wrong value (dates, numbers, nesting) beside its own."""
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


_KINDS = {"stages": "pipeline", "space": "sweep", "methods": "comparison", "sources": "corpus", "train": "recipe"}
"""What a file is, by the key that no other kind has at its top."""
_COMMANDS = {"pipeline": "run", "sweep": "sweep", "comparison": "compare", "corpus": "prepare", "recipe": "train"}


def read_yaml(path: str | Path, kind: str | None = None) -> dict[str, Any]:
    """Mapping in a YAML file.

    Args:
        kind: what it is to be, one of `_COMMANDS`; None takes any.

    Raises:
        ConfigError: the file is missing, too large, not UTF-8, not YAML, not a mapping, or of another kind.
    """
    value = _read_mapping(path)
    found = {name for key, name in _KINDS.items() if key in value}
    if kind is not None and len(found) == 1 and kind not in found:
        (other,) = found
        raise ConfigError(f"{path}: this is a {other}, not a {kind}; give it to `longspan {_COMMANDS[other]}`")
    return value


def _read_mapping(path: str | Path) -> dict[str, Any]:
    file = Path(path)
    try:
        if file.is_dir() and str(path):
            raise ConfigError(f"{path}: is a folder; give the path of a YAML file")
        if not file.is_file() or not str(path):
            raise ConfigError(f"{str(path) or repr('')}: no such file; give the path of a YAML file")
        size = file.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: {size} bytes is no configuration; the limit is {MAX_CONFIG_BYTES}")
        value = _load_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; give the path of a YAML file") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping of sections at the top, found {type(value).__name__}")
    return value


def apply_overrides(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """`values` with each `dotted.key=value` set; the value is YAML, list items go by number (`data.mix.0.weights.a=1`).

    Raises:
        ConfigError: an override without `=`, or a path through something that is not a section.
    """
    result: dict[str, Any] = json.loads(json.dumps(values, default=str))
    for override in overrides:
        key, separator, text = override.partition("=")
        path = [part.strip() for part in key.split(".")]
        if not separator or not all(path):
            raise ConfigError(f"--set {override}: expected section.key=value, for example train.steps=100")
        try:
            value = _load_yaml(text)
        except ValueError:
            raise ConfigError(f"--set {override}: '{text}' is not a YAML value") from None
        _set_path(result, path, value, override)
    return result


def _set_path(target: Any, path: list[str], value: Any, override: str) -> None:
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(target, list):
            if not part.isdecimal() or int(part) >= len(target):
                raise ConfigError(f"--set {override}: '{part}' is no item of the list ({len(target)} items, from 0)")
            key: Any = int(part)
        elif isinstance(target, dict):
            key = part
        else:
            raise ConfigError(f"--set {override}: '{'.'.join(path[:depth])}' is a value, not a section")
        if last:
            target[key] = value
        elif isinstance(target, dict) and target.get(key) is None:
            target[key] = {}
        target = value if last else target[key]


def parse(model: type[T], values: dict[str, Any], origin: str) -> T:
    """`values` as a `model`.

    Raises:
        ConfigError, TopologyError: one line for the first mistake found: the dotted field, what is wrong and what would
            be right.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_describe(model, values, error.errors())}") from None
    except TopologyError as error:
        raise TopologyError(f"{origin}: {error}") from None


def _describe(model: type[BaseModel], values: dict[str, Any], errors: list[Any]) -> str:
    error = errors[0]
    field = _dotted(values, error)
    kind, message = error["type"], error["msg"]
    if kind == "extra_forbidden":
        return f"{field}: unknown key{_suggest(model, error['loc'])}"
    if kind == "missing":
        return f"{field}: required, but not given"
    if kind == "union_tag_not_found":
        return f"{field}.{error['ctx']['discriminator'][1:-1]}: required, but not given"
    if kind == "union_tag_invalid":
        choice = error["ctx"]
        # A function tells the kinds of sources apart, so that a source without a type is text.
        tag = "type" if choice["discriminator"].endswith("()") else choice["discriminator"][1:-1]
        return f"{field}.{tag}: input should be one of {choice['expected_tags']}, not '{choice['tag']}'"
    if kind == "value_error":
        text = message.removeprefix("Value error, ")
        return f"{field}: {text}" if field else text
    # One for each type that the field may have.
    wanted = " or ".join(e["msg"][0].lower() + e["msg"][1:] for e in errors if _dotted(values, e) == field)
    return f"{field}: {wanted}, not {repr(error['input'])[:80]}"


def _dotted(values: Any, error: Any) -> str:
    """The path to the value as the file has it; pydantic's own also names the member of a union."""
    parts = []
    for number, part in enumerate(error["loc"]):
        absent = error["type"] == "missing" and number == len(error["loc"]) - 1
        items = range(len(values)) if isinstance(values, list) else values if isinstance(values, dict) else ()
        inside = part in items
        if inside or absent:
            parts.append(str(part))
            values = values[part] if inside else None
    return ".".join(parts)


def _suggest(model: type[BaseModel], location: tuple[Any, ...]) -> str:
    known = list(_fields_at(model, location[:-1]))
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known keys: {', '.join(known)}" if known else ""


def _fields_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    current = [model]
    for part in location:
        owners = [candidate for candidate in current if part in candidate.model_fields]
        if owners:
            current = _sections_in(owners[0].model_fields[part].annotation)
        else:  # an item of a list, or the tag of a union
            tagged = [
                c for c in current if "type" in c.model_fields and part in get_args(c.model_fields["type"].annotation)
            ]
            current = tagged or current
    return list(current[0].model_fields) if current else []


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """Sections that a value of this type may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_in(part)]


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """The recipe in a YAML file, with overrides. Raises ConfigError with one line (see `parse`)."""
    return parse(Recipe, apply_overrides(read_yaml(path, "recipe"), overrides or []), str(path))


def to_yaml(section: BaseModel) -> str:
    """The section with every default written out."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def fingerprint(recipe: Recipe) -> str:
    """Hash of `deciding_values`.

    A run may go on with other workers, another sequence-parallel degree or another output of the trackers.
    """
    return hashlib.sha256(json.dumps(deciding_values(recipe), sort_keys=True).encode()).hexdigest()[:32]


def deciding_values(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides the numbers of a run, as JSON has it; where and how fast it runs is left out."""
    values = recipe.model_dump(mode="json", exclude={"output", "parallel", "tracking", "evaluate", "name"})
    for key in ("micro_batch_size", "zero_stage", "save_every", "keep_checkpoints", "threads", "loss_chunk"):
        values["train"].pop(key)
    for key in ("attention", "gradient_checkpointing"):
        values["model"].pop(key)
    return values
