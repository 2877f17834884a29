"""The corpus's tokenizer: trained the same every time, kept with the corpus, and asked for sentence ends."""

import json
from pathlib import Path
from typing import Any

import pytest

from longspan import storage
from longspan.config.corpus import Tokenizer
from longspan.corpus.encoding import encode, encode_with_offsets
from longspan.corpus.synthesis.needles import NeedleVocabulary
from longspan.corpus.tokenizer import (
    copy_tokenizer,
    needle_vocabulary,
    open_tokenizer,
    sentence_end_ids,
    store_tokenizer,
    train_tokenizer,
)
from longspan.corpus.tokenizer_files import open_tokenizer_files
from longspan.errors import ConfigError, DataError, StorageError
from tests.corpus.conftest import Prepared, sentences


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer([sentences(0, 200)], Tokenizer(train_vocab_size=290, needle_tokens=True))


def test_needle_tokens_follow_the_trained_vocabulary(tokenizer: Any) -> None:
    block = NeedleVocabulary(first_id=290)
    assert len(tokenizer) == 290 + len(block)
    assert tokenizer.convert_ids_to_tokens(list(range(290, len(tokenizer)))) == block.tokens()
    assert needle_vocabulary(tokenizer) == block


def test_a_tokenizer_without_the_whole_needle_block_has_none() -> None:
    plain = train_tokenizer([sentences(0, 200)], Tokenizer(train_vocab_size=290))
    assert needle_vocabulary(plain) is None
    plain.add_tokens(NeedleVocabulary(first_id=0).tokens()[:5])
    assert needle_vocabulary(plain) is None


def test_special_marks_in_a_text_stay_text(tokenizer: Any) -> None:
    text = "Ends here <|eos|> or <v:3>?\n"
    (ids,) = encode(tokenizer, [text])
    assert ids.max() < 290
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_texts_are_encoded_in_order_over_batches(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [sentences(i, i % 4) for i in range(20)]
    expected = [ids.tolist() for ids in encode(tokenizer, texts)]
    monkeypatch.setattr("longspan.corpus.encoding._BATCH_TEXTS", 3)
    assert [ids.tolist() for ids in encode(tokenizer, texts)] == expected
    monkeypatch.setattr("longspan.corpus.encoding._BATCH_CHARACTERS", 40)
    assert [ids.tolist() for ids in encode(tokenizer, texts)] == expected
    assert [tokenizer.decode(ids) for ids in expected] == texts


def test_offsets_lie_end_to_end_and_marks_stay_text(tokenizer: Any) -> None:
    text = "gr\u00fc\u00dfe <|eos|> 12,5 \u2713 the\n end "
    tokens, offsets = encode_with_offsets(tokenizer, text)
    assert tokens.tolist() == next(encode(tokenizer, [text])).tolist()
    assert tokenizer.eos_token_id not in tokens
    assert offsets[0, 0] == 0
    assert offsets[-1, 1] == len(text)
    # Several tokens of one character share its place.
    assert ((offsets[1:, 0] == offsets[:-1, 1]) | (offsets[1:] == offsets[:-1]).all(axis=1)).all()
    assert [part.shape for part in encode_with_offsets(tokenizer, "")] == [(0,), (0, 2)]


def test_fast_and_slow_ways_give_the_same_tokens(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["", "<|eos|> \u20ac <v:3>", *(sentences(i, 1 + i % 4) for i in range(20))]
    fast = [ids.tolist() for ids in encode(tokenizer, texts)]
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    assert [ids.tolist() for ids in encode(tokenizer, texts)] == fast


def test_truncation_and_padding_of_the_tokenizer_are_put_aside(tokenizer: Any) -> None:
    texts = [sentences(0, 5), "a"]
    expected = [ids.tolist() for ids in encode(tokenizer, texts)]
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=10)
    assert [ids.tolist() for ids in encode(tokenizer, texts)] == expected


def test_ids_are_counted_to_the_largest_also_over_gaps(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.WordLevel({"a": 0, "b.": 9, "?": 4}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    gapped = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert store_tokenizer(gapped, str(tmp_path)).vocab_size == 10
    assert sentence_end_ids(gapped) == (4, 9)
    assert [ids.tolist() for ids in encode(gapped, ["a b. c"])] == [[0, 9, 4]]


def test_sentence_ends_are_found_by_decoding(tokenizer: Any) -> None:
    tokenizer.add_tokens(['."', ".) ", "\n    ", "e.g", "\u3002", "3.5", "?\u201d"])
    ends = {tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in sentence_end_ids(tokenizer)}
    assert {".", "!", "?", "\n", '."', ".) ", "\n    ", "\u3002", "?\u201d"} <= ends
    assert not {"e.g", "3.5", " ", '"', "a", "<|eos|>"} & ends


def test_rejects_a_vocabulary_larger_than_the_text_gives() -> None:
    with pytest.raises(ConfigError, match=r"train_vocab_size: 5000 asked for, but the text gives 2\d\d tokens"):
        train_tokenizer(["one two"], Tokenizer(train_vocab_size=5000))


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_rejects_a_path_without_a_tokenizer(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.path: .*: no tokenizer that can be loaded: \S"):
        open_tokenizer_files(str(tmp_path), field="tokenizer.path")


def test_is_stored_and_opened_again_also_on_s3(tokenizer: Any, s3_bucket: str) -> None:
    info = store_tokenizer(tokenizer, s3_bucket)
    assert (info.needle_first_id, info.vocab_size) == (290, len(tokenizer))
    again = open_tokenizer_files(f"{s3_bucket}/tokenizer", field="tokenizer.path")
    assert again.get_vocab() == tokenizer.get_vocab()
    assert (again.bos_token, again.eos_token, again.pad_token) == ("<|bos|>", "<|eos|>", "<|pad|>")


def test_is_written_under_names_that_transformers_4_and_5_both_read(tokenizer: Any, tmp_path: Path) -> None:
    """4.57 knows no class TokenizersBackend and wants no list as extra_special_tokens (it opens this one: see
    tests/readers).
    """
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|call|>"]})
    store_tokenizer(tokenizer, str(tmp_path))
    config = json.loads((tmp_path / "tokenizer" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["additional_special_tokens"] == ["<|call|>"]
    assert not isinstance(config.get("extra_special_tokens"), list)
    again = open_tokenizer_files(str(tmp_path / "tokenizer"), field="tokenizer.path")
    assert again.extra_special_tokens == ["<|call|>"]
    assert again("two<|call|>one").input_ids == tokenizer("two<|call|>one").input_ids


def test_comes_back_from_the_corpus_and_only_undamaged(prepared: Prepared, tmp_path: Path) -> None:
    assert len(open_tokenizer(prepared.uri, prepared.manifest)) == prepared.manifest.tokenizer.vocab_size
    copy_tokenizer(prepared.uri, prepared.manifest, tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == set(prepared.manifest.tokenizer.files)

    storage.upload_tree(storage.join(prepared.uri, "tokenizer"), tmp_path / "damaged" / "tokenizer")
    file = tmp_path / "damaged" / "tokenizer" / "tokenizer.json"
    file.write_bytes(file.read_bytes().replace(b"<|bos|>", b"<|bot|>", 1))
    with pytest.raises(StorageError, match=r"tokenizer\.json: its digest is"):
        open_tokenizer(str(tmp_path / "damaged"), prepared.manifest)
    file.unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json: named in the manifest, but missing"):
        open_tokenizer(str(tmp_path / "damaged"), prepared.manifest)
