"""The one door for tokenizers: what is opened is the one in the files, whatever transformers would make of it.

transformers 5 builds the pipeline of many tokenizers anew from their class, and converts a `tokenizer.model` in its own
way; both can give other tokens than the files do, without a word. A text of every kind is encoded both ways here.
"""

import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longspan import storage
from longspan.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_logger = logging.getLogger(__name__)

FAST, SENTENCEPIECE = "tokenizer.json", "tokenizer.model"
_FILES = (FAST, SENTENCEPIECE, "tokenizer_config.json", "vocab.json", "vocab.txt")
PROBE = (
    "  Two spaces first.   Three between,\ttabs\t\tand\r\nlines\n\n\n  of text \n \n"
    "It's 3.14159, 1,000,000 or 2024-11-28; don't, WE'LL, (x) => {y[0] != z};\n"
    "def f(x):\n    if x:\n\t\treturn x**2  # comment\n        \n"
    "Zażółć gęślą jaźń, naïve cafés, İstanbul, e\u0301 and \u00e9, \ufb01ne ½ ²\n"
    "Съешь ещё этих булок 你好\uff0c世界。日本語のテキスト 한국어"
    " \u0928\u092e\u0938\u094d\u0924\u0947 \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627\n"
    "\U0001f642 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1ea\U0001f1fa \u00a0\u2003\u200b\u3000"
    " \u2581 \u0120 \ufeff <s> </s> <|endoftext|> <unk> [INST] <think> end  "
)
"""Scripts, runs of spaces, line ends, digits, code, composed letters, emoji and special marks."""
_BY_TRANSFORMERS_4 = (
    "write a tokenizer.json beside it once, with transformers 4 and sentencepiece: AutoTokenizer.from_pretrained(DIR)"
    ".save_pretrained(DIR)"
)


def open_tokenizer_files(
    path: str, revision: str | None = None, *, field: str, say: bool = False
) -> "PreTrainedTokenizerBase":
    """Tokenizer of a directory (local or s3://) or hub name, with the pipeline of its own tokenizer.json. No code of
    the repository is run.

    Args:
        path: where it is.
        revision: on the hub.
        field: what names it; messages begin with it.
        say: log one line where transformers' AutoTokenizer would give other tokens.

    Raises:
        ConfigError: there is none that can be loaded, or its files contradict one another.
    """
    from transformers import AutoTokenizer

    folder = str(storage.local_directory(path)) if storage.is_remote(path) else path
    fast, model = (_file(folder, name, revision) for name in (FAST, SENTENCEPIECE))
    if fast is None and model is not None and not find_spec("sentencepiece"):
        raise ConfigError(
            f"{field}: {path} has a {SENTENCEPIECE} and no {FAST}, and only sentencepiece can tell whether transformers"
            f" reads that right; pip install 'longspan[sentencepiece]', or {_BY_TRANSFORMERS_4}"
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, revision=revision, trust_remote_code=False
        )
    except Exception as error:  # a class that is none, a file that is damaged, a library that is missing
        raise ConfigError(
            f"{field}: {path}: no tokenizer that can be loaded: {_reason(error)}; give one with a sound {FAST}"
        ) from None
    if fast is not None:
        return _of_tokenizer_json(tokenizer, fast, folder, revision, f"{field}: {path}", say)
    if model is not None:
        _check_sentencepiece(tokenizer, model, f"{field}: {path}")
    return tokenizer


def has_tokenizer(path: str, revision: str | None = None) -> bool:
    """Whether a directory (local or s3://) or hub name has a tokenizer's files at all."""
    folder = str(storage.local_directory(path)) if storage.is_remote(path) else path
    return any(_file(folder, name, revision) is not None for name in _FILES)


def probe_ids(tokenizer: Any) -> list[int]:
    """Ids of `PROBE`, special marks in it as text, without bos and eos."""
    if not tokenizer.is_fast:
        return list(tokenizer(PROBE, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    return _ids(tokenizer.backend_tokenizer)


def _of_tokenizer_json(
    tokenizer: Any, fast: Path, folder: str, revision: str | None, where: str, say: bool
) -> "PreTrainedTokenizerBase":
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_file(str(fast))
    if tokenizer.is_fast and _pipeline(tokenizer.backend_tokenizer) == _pipeline(backend):
        own: PreTrainedTokenizerBase = tokenizer
    else:
        # Special tokens that only the class names are kept, if the file has them.
        given: dict[str, Any] = {} if revision is None else {"revision": revision}
        special = ((key, value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str))
        given |= {key: value for key, value in special if backend.token_to_id(value) is not None}
        own = PreTrainedTokenizerFast.from_pretrained(folder, **given)
        if say and probe_ids(tokenizer) != _ids(backend):
            _logger.warning(
                "%s: transformers' AutoTokenizer gives other tokens than %s (%d against %d of a test text): it builds"
                " class %s anew; longspan uses the file, and so will all readers with tokenizer_class:"
                ' "PreTrainedTokenizerFast" in tokenizer_config.json',
                where,
                FAST,
                len(probe_ids(tokenizer)),
                len(_ids(backend)),
                type(tokenizer).__name__,
            )
    if probe_ids(own) != _ids(backend):
        raise ConfigError(
            f"{where}: {FAST} and tokenizer_config.json contradict each other (a test text has {len(_ids(backend))}"
            f" tokens by the one, {len(probe_ids(own))} with both); take out of tokenizer_config.json what changes them"
        )
    return own


def _pipeline(backend: Any) -> dict[str, Any]:
    """What of a tokenizer decides the ids of plain text, but for its vocabulary and merges."""
    values: dict[str, Any] = json.loads(backend.to_str())
    model = {key: value for key, value in values["model"].items() if key not in ("vocab", "merges")}
    return {"model": model, **{key: values[key] for key in ("normalizer", "pre_tokenizer")}}


def _ids(backend: Any) -> list[int]:
    backend.no_truncation()
    backend.no_padding()
    was = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        return list(backend.encode(PROBE, add_special_tokens=False).ids)
    finally:
        backend.encode_special_tokens = was


def _check_sentencepiece(tokenizer: Any, model: Path, where: str) -> None:
    from sentencepiece import SentencePieceProcessor

    try:
        expected = SentencePieceProcessor(model_file=str(model)).encode(PROBE)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"{where}: {SENTENCEPIECE} is no model of sentencepiece ({_reason(error)}); put the {FAST} of its model"
            " beside it"
        ) from None
    found = probe_ids(tokenizer)
    if found != expected:
        raise ConfigError(
            f"{where}: transformers gives other tokens than {SENTENCEPIECE} ({len(found)} against {len(expected)} of a"
            f" test text); {_BY_TRANSFORMERS_4}"
        )


def _file(folder: str, name: str, revision: str | None) -> Path | None:
    if Path(folder).is_dir():
        return Path(folder, name) if Path(folder, name).is_file() else None
    from transformers.utils import cached_file

    try:
        found = cached_file(folder, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    except OSError:  # said better by AutoTokenizer
        return None
    return None if found is None else Path(found)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
