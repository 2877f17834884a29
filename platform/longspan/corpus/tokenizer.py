"""The corpus's tokenizer: trained, stored beside the shards, and asked which tokens end a sentence.

`prepare` makes it; training, evaluation and export take it back from the corpus with `open_tokenizer`.
"""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from longspan import storage
from longspan.config.corpus import Tokenizer
from longspan.corpus.manifest import Manifest, TokenizerInfo
from longspan.corpus.synthesis.needles import NeedleVocabulary
from longspan.corpus.tokenizer_files import open_tokenizer_files
from longspan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DIRECTORY = "tokenizer"
_SPECIAL = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
_SENTENCE_ENDS = (".", "!", "?", "\n", "\u3002", "\uff01", "\uff1f")
"""Full stop, exclamation and question mark, line end, and the first three in their Chinese and Japanese forms."""
_TRAILING = " \t\r\"'`)]}\u2019\u201d\u00bb\u300d\u300f"
"""Spaces, quotes and brackets that may follow the end of a sentence inside one token."""


def train_tokenizer(texts: Iterable[str], config: Tokenizer) -> "PreTrainedTokenizerBase":
    """Byte-level BPE with `config.train_vocab_size` ids; needle tokens, if asked for, come after them.

    The same texts give the same tokenizer: ties are broken by token id.

    Raises:
        ConfigError: the texts are too small for that vocabulary.
    """
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    assert config.train_vocab_size is not None
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.train_vocab_size,
        special_tokens=list(_SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(iter(texts), trainer)
    size = backend.get_vocab_size()
    if size != config.train_vocab_size:
        raise ConfigError(
            f"tokenizer.train_vocab_size: {config.train_vocab_size} asked for, but the text gives {size} tokens;"
            f" {size} or more text would be right"
        )
    if config.needle_tokens:
        names = NeedleVocabulary(first_id=size).tokens()
        backend.add_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **_SPECIAL)


def store_tokenizer(tokenizer: "PreTrainedTokenizerBase", output: str) -> TokenizerInfo:
    """Write the tokenizer to OUTPUT/tokenizer in Hugging Face's layout, such that transformers 4.57 opens it too."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        _name_for_both_versions(Path(folder, "tokenizer_config.json"))
        names = storage.upload_tree(folder, storage.join(output, DIRECTORY))
        files = {name: storage.digest_file(os.path.join(folder, name)) for name in names}
    vocabulary = needle_vocabulary(tokenizer)
    return TokenizerInfo(
        directory=DIRECTORY,
        vocab_size=num_ids(tokenizer),
        files=files,
        needle_first_id=vocabulary.first_id if vocabulary else None,
    )


def _name_for_both_versions(path: Path) -> None:
    """Class and further special tokens of tokenizer_config.json under names that transformers 4 and 5 both read.

    What 5 saves as class TokenizersBackend, which 4 does not know, it also opens as PreTrainedTokenizerFast; its list
    `extra_special_tokens` is `additional_special_tokens` to both, and no list to 4.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_tokenizer(uri: str, manifest: Manifest, directory: str | Path) -> None:
    """Copy the tokenizer's files of the corpus at `uri` to the local `directory`, each compared with its digest.

    Raises:
        DataError: a file is missing.
        StorageError: a file stays different from its digest, or could not be read or written.
    """
    _copy(uri, manifest.tokenizer, directory)


def _copy(uri: str, info: TokenizerInfo, directory: str | Path) -> None:
    for name, digest in info.files.items():
        where = storage.join(uri, info.directory, name)
        try:
            storage.download_file(where, os.path.join(directory, name), digest=digest)
        except storage.NotFoundError:
            raise DataError(f"{where}: named in the manifest, but missing; prepare the corpus again") from None


def open_tokenizer(uri: str, manifest: Manifest) -> "PreTrainedTokenizerBase":
    """The tokenizer that the corpus at `uri` was made with. Raises as `copy_tokenizer`."""
    return open_stored(uri, manifest.tokenizer)


def open_stored(uri: str, info: TokenizerInfo) -> "PreTrainedTokenizerBase":
    """The tokenizer that `store_tokenizer` wrote to the corpus at `uri`. Raises as `copy_tokenizer`."""
    with tempfile.TemporaryDirectory() as folder:
        _copy(uri, info, folder)
        return open_tokenizer_files(folder, field=storage.join(uri, info.directory))


def num_ids(tokenizer: "PreTrainedTokenizerBase") -> int:
    """One more than the largest id: some vocabularies have gaps, so that they have fewer tokens than that."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=0))


def needle_vocabulary(tokenizer: "PreTrainedTokenizerBase") -> NeedleVocabulary | None:
    """The block of needle tokens in this tokenizer, or None if it is not there as `NeedleVocabulary` lays it out."""
    vocabulary = tokenizer.get_vocab()
    first = vocabulary.get(NeedleVocabulary(first_id=0).tokens()[0])
    if first is None:
        return None
    block = NeedleVocabulary(first_id=first)
    in_order = all(vocabulary.get(name) == first + number for number, name in enumerate(block.tokens()))
    return block if in_order else None


def sentence_end_ids(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Ids whose text ends a sentence or a line, quotes, brackets and spaces after it aside; rising.

    Found by decoding the whole vocabulary, so it holds for every tokenizer (papers.md 1c.5: fixed ids do not).
    """
    special = set(tokenizer.all_special_ids)
    texts = tokenizer.batch_decode(
        [[number] for number in range(num_ids(tokenizer))],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    ends = [text.rstrip(_TRAILING).endswith(_SENTENCE_ENDS) for text in texts]
    return tuple(number for number, is_end in enumerate(ends) if is_end and number not in special)
