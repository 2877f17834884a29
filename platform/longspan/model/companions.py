"""A model's companion files: what lies beside its weights and config.json and training does not change.

Tokenizer, chat templates, generation settings and licence go from the source to a result byte for byte: `checkpoint`
and `merge` write theirs with `companions`. A tokenizer saved anew by transformers 5 does not open in transformers 4.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from longspan import storage
from longspan.errors import ConfigError
from longspan.model.limits import Window, move_limits

_logger = logging.getLogger(__name__)
Write = Callable[[Path], None]
"""Makes a file at the path that it is given."""

KINDS = (
    *("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "COPYING*"),
)
_TEMPLATES = "additional_chat_templates"
_NOT = (
    *("config.json", "params.json", "*.index.json"),  # describe the weights, here or in another reader's form
    *("adapter_config.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json"),
    *("trainer_state.json", "training_args.json", "*_results.json"),  # left by the trainer of the source
)
_LARGEST = 256 * 2**20
"""Bytes of a companion at most; what is larger is data that lies there by chance. Large tokenizers have 35 MiB."""
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.tiktoken")
CARD = "README.md"
HUB_FILES = (*KINDS, "*.safetensors", CARD)
"""Patterns of all that a model on the hub is read for."""


def model_folder(path: str, revision: str | None = None, remote_code: bool = False) -> Path:
    """A local folder that holds the companion files of a model, and its card (README.md) where it has one.

    Args:
        path: Hugging Face directory (local or s3://) or hub name; the hub's files come through its cache.
        revision: of a hub name.
        remote_code: fetch code files too.

    Raises:
        ConfigError: a hub name whose files cannot be fetched.
        StorageError: the directory cannot be read.
    """
    if storage.is_remote(path) or Path(path).is_dir():
        return storage.local_directory(path)
    kinds = [*KINDS, CARD, *(["*.py"] if remote_code else [])]
    problem = f"model.path: the tokenizer and other files of '{path}' cannot be fetched from the hub"
    try:
        return hub_folder(path, revision, kinds, problem, "; fetch the model to a directory and give that")
    except ConfigError as error:
        from huggingface_hub import try_to_load_from_cache

        # Without a way to the hub, what the model was opened with has to do.
        cached = try_to_load_from_cache(path, "config.json", revision=revision)
        if not isinstance(cached, str):
            raise
        _logger.warning("%s; only those that are in its cache go along", error)
        return Path(cached).parent


def hub_folder(name: str, revision: str | None, kinds: Iterable[str], problem: str, mend: str = "") -> Path:
    """The folder of the hub's cache with those files of a model that are of `kinds` (patterns) and of no other form.

    Raises:
        ConfigError: `problem`, the reason and `mend`, where there is no such model or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    left = [*(f"*/{kind}" for kind in kinds if kind != "*.jinja"), "consolidated*"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(kinds), ignore_patterns=left))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{problem} ({reason}){mend}") from None


def companion_names(folder: Path, remote_code: bool = False) -> list[str]:
    """Names of the companion files in a model's folder, sorted: by their kind, so that nothing else that lies there
    (weights in other forms, optimizer states, logs, hidden files) goes along.

    Args:
        folder: of the model.
        remote_code: with its code, `*.py`: only where the user trusts it.
    """
    kinds = (*KINDS, "*.py") if remote_code else KINDS
    names = [path.name for path in folder.iterdir() if path.is_file() and _is_companion(path.name, kinds)]
    names += [f"{_TEMPLATES}/{path.name}" for path in (folder / _TEMPLATES).glob("*.jinja") if path.is_file()]
    large = [name for name in names if (folder / name).stat().st_size > _LARGEST]
    for name in large:
        _logger.warning("%s is larger than any companion file of a model and does not go along", folder / name)
    return sorted(set(names) - set(large))


def _is_companion(name: str, kinds: Iterable[str]) -> bool:
    def among(patterns: Iterable[str]) -> bool:
        return any(fnmatch(name, pattern) for pattern in patterns)

    return among(kinds) and not among(_NOT) and not name.startswith(".")


def has_tokenizer(folder: Path) -> bool:
    return any(fnmatch(path.name, pattern) for path in folder.iterdir() for pattern in _TOKENIZER)


def companions(folder: Path, window: Window, remote_code: bool = False) -> dict[str, Write]:
    """Each companion file of a model's folder by its name, to be written beside weights of another window.

    Byte for byte, but for a limit that names the old window (see `limits`), and but for `auto_map` in
    tokenizer_config.json where its code stays behind.

    Raises (when a file is written):
        OSError: it cannot be read or written.
    """
    names = companion_names(folder, remote_code)
    code = {name for name in names if name.endswith(".py")}
    return {name: partial(_write, folder / name, name, window, code) for name in names}


def _write(source: Path, name: str, window: Window, code: set[str], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not name.endswith(".json"):
        shutil.copyfile(source, target)
        return
    content = source.read_bytes()
    target.write_bytes(_adapted(name, content, window, code))


def _adapted(name: str, content: bytes, window: Window, code: set[str]) -> bytes:
    try:
        text = content.decode()
        values = json.loads(text) if name == "tokenizer_config.json" else None
    except ValueError:  # nobody's JSON, and nothing to be changed in it
        return content
    if isinstance(values, dict) and not keeps_code(values, code):
        del values["auto_map"]
        text = json.dumps(values, indent=2) + "\n"
    return move_limits(name, text, window).encode()


def keeps_code(values: Mapping[str, Any], code: Iterable[str]) -> bool:
    """Whether the `auto_map` of a config file may stay, which names code: where that goes along (`code`, file names).
    True where there is none.
    """
    named = values.get("auto_map")
    if named is None:
        return True
    entries = named.values() if isinstance(named, dict) else [named]
    classes = [name for entry in entries for name in (entry if isinstance(entry, list) else [entry]) if name]
    files = {f"{str(name).rpartition('.')[0]}.py" for name in classes if "--" not in str(name)}
    return bool(code) and files <= set(code)


def tokenizer_note(folder: Path) -> str | None:
    """What a reader should know of the tokenizer's files; None where every reader opens them."""
    file = folder / "tokenizer_config.json"
    try:
        values = json.loads(file.read_bytes()) if file.is_file() else {}
    except ValueError:
        return None
    saved = "The tokenizer's files are the base's own, saved by transformers 5"
    if isinstance(values.get("extra_special_tokens"), list):
        return f"{saved}; transformers 4 does not open them."
    if values.get("tokenizer_class") == "TokenizersBackend":
        return f"{saved}; transformers 4 opens them with PreTrainedTokenizerFast, not with AutoTokenizer."
    return None
