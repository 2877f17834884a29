from pathlib import Path

from longspan.corpus.manifest import TokenizerInfo, load_manifest
from longspan.corpus.tokenizer import open_tokenizer
from longspan.impact.token_types import TOKEN_TYPES, vocabulary_types
from tests.impact.conftest import TextMaterial


def test_types_of_a_byte_level_vocabulary(text_material: TextMaterial) -> None:
    manifest = load_manifest(text_material.corpus)
    tokenizer = open_tokenizer(text_material.corpus, manifest)
    types = vocabulary_types(tokenizer, manifest.tokenizer)
    assert types.names == TOKEN_TYPES
    assert types.type_of.shape == (manifest.tokenizer.vocab_size,)

    def kind(text: str) -> str:
        (number,) = tokenizer(text, add_special_tokens=False)["input_ids"]
        return types.names[types.type_of[number]]

    assert [kind(text) for text in (" the", "L", "7")] == ["word start", "continuation", "number"]
    assert [kind(text) for text in (".", ",", "+", "$")] == ["punctuation", "punctuation", "symbol", "symbol"]
    assert [kind(text) for text in ("\n", " ")] == ["newline", "whitespace"]
    assert kind("<|eos|>") == "special"
    first = manifest.tokenizer.needle_first_id
    assert first is not None
    assert {types.names[number] for number in types.type_of[first:]} == {"needle"}
    assert "needle" not in {types.names[number] for number in types.type_of[:first]}
    # Half of a character is no letter.
    half = tokenizer.get_vocab()["\u00c3"]
    assert types.names[types.type_of[half]] == "bytes"


def test_a_sentencepiece_space_is_seen_though_the_decoder_drops_it(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    strings = ["<unk>", "\u2581the", "the", "\u2581", "\u25812", "2", ".", "\u2581."]
    backend = Tokenizer(models.WordLevel({string: number for number, string in enumerate(strings)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    types = vocabulary_types(tokenizer, TokenizerInfo("tokenizer", 10, {}))
    assert [types.names[number] for number in types.type_of] == [
        "special", "word start", "continuation", "whitespace", "number", "number", "punctuation", "punctuation",
        "special", "special",
    ]  # fmt: skip
