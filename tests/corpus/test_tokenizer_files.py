"""A tokenizer is the one in its files; where transformers makes another one of its class, that is said."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from longspan.corpus import tokenizer_files
from longspan.corpus.encoding import encode
from longspan.corpus.tokenizer_files import PROBE, has_tokenizer, open_tokenizer_files, probe_ids
from longspan.errors import ConfigError

TEXTS = [f"{line}\n" for line in Path(json.__file__).with_name("decoder.py").read_text().splitlines()]
SPECIAL = ["<|endoftext|>", "<s>", "</s>"]


@pytest.fixture(scope="module")
def backend() -> Backend:
    """Byte-level BPE that cuts digits one by one, as no class of transformers does by itself."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d| {2,}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def folder_with(folder: Path, backend: Backend, **config: Any) -> Path:
    """A bare folder: tokenizer.json, and tokenizer_config.json if anything is in it."""
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def ids_of_the_file(folder: Path, text: str) -> list[int]:
    own = Backend.from_file(str(folder / "tokenizer.json"))
    own.encode_special_tokens = True
    return list(own.encode(text, add_special_tokens=False).ids)


CLASSES = [
    None,
    "GPT2TokenizerFast",
    "GPT2Tokenizer",
    "Qwen2TokenizerFast",
    "LlamaTokenizerFast",
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
    "CodeGenTokenizerFast",
    "GemmaTokenizerFast",
]


@pytest.mark.parametrize("model_type", [None, "llama", "qwen2", "mistral"])
@pytest.mark.parametrize("name", CLASSES)
def test_the_ids_are_those_of_the_file_whatever_class_it_names(
    tmp_path: Path, backend: Backend, name: str | None, model_type: str | None
) -> None:
    folder = folder_with(tmp_path / "model", backend, **({"tokenizer_class": name} if name else {}))
    if model_type:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    tokenizer = open_tokenizer_files(str(folder), field="tokenizer.path")
    for text in (PROBE, TEXTS[7], "", " "):
        (found,) = encode(tokenizer, [text], "text")
        assert found.tolist() == ids_of_the_file(folder, text)
    assert probe_ids(tokenizer) == ids_of_the_file(folder, PROBE)
    assert tokenizer.get_vocab() == backend.get_vocab()


def test_what_transformers_would_give_in_its_place_is_said_with_the_mend(
    tmp_path: Path, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """The case that this door is for: AutoTokenizer builds the class anew and gives other ids, without a word."""
    from transformers import AutoTokenizer

    config = {"tokenizer_class": "Qwen2TokenizerFast", "eos_token": "<|endoftext|>", "pad_token": "</s>"}
    folder = folder_with(tmp_path / "model", backend, **config)
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    assert probe_ids(theirs) != ids_of_the_file(folder, PROBE)
    open_tokenizer_files(str(folder), field="tokenizer.path")
    assert not caplog.records
    tokenizer: Any = open_tokenizer_files(str(folder), field="tokenizer.path", say=True)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"tokenizer.path: {folder}: transformers' AutoTokenizer gives other tokens than tokenizer.json ("
    )
    assert 'tokenizer_class: "PreTrainedTokenizerFast" in tokenizer_config.json' in record.getMessage()
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "</s>")
    # The mend.
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}))
    caplog.clear()
    open_tokenizer_files(str(folder), field="tokenizer.path", say=True)
    assert not caplog.records
    theirs = AutoTokenizer.from_pretrained(folder)
    assert probe_ids(theirs) == ids_of_the_file(folder, PROBE)


def test_special_tokens_that_only_the_class_names_are_kept(tmp_path: Path, backend: Backend) -> None:
    tokenizer: Any = open_tokenizer_files(
        str(folder_with(tmp_path / "model", backend, tokenizer_class="GPT2TokenizerFast")), field="tokenizer.path"
    )
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|endoftext|>", "<|endoftext|>")


def test_files_that_contradict_each_other_are_refused(
    tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with(tmp_path / "model", backend, tokenizer_class="PreTrainedTokenizerFast")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    added = {"content": "geese", "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    monkeypatch.setattr(tokenizer_files, "PROBE", f"{PROBE} grey geese")
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "added_tokens_decoder": {"400": added}}))
    with pytest.raises(ConfigError) as caught:
        open_tokenizer_files(str(folder), field="model.path")
    assert str(caught.value).startswith(
        f"model.path: {folder}: tokenizer.json and tokenizer_config.json contradict each other (a test text has "
    )


def test_a_file_that_cuts_and_pads_is_read_whole(tmp_path: Path, backend: Backend) -> None:
    limited = Backend.from_str(backend.to_str())
    limited.enable_truncation(8)
    limited.enable_padding(length=9)
    folder = folder_with(tmp_path / "model", limited)
    tokenizer = open_tokenizer_files(str(folder), field="tokenizer.path")
    assert len(probe_ids(tokenizer)) > 100


def test_a_lower_casing_normalizer_of_the_file_is_kept(tmp_path: Path, backend: Backend) -> None:
    lower = Backend.from_str(backend.to_str())
    lower.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    folder = folder_with(tmp_path / "model", lower, tokenizer_class="GPT2TokenizerFast")
    tokenizer = open_tokenizer_files(str(folder), field="tokenizer.path")
    (upper,), (small,) = encode(tokenizer, ["GREY GEESE"]), encode(tokenizer, ["grey geese"])
    assert upper.tolist() == small.tolist()


def test_tokens_added_beside_the_vocabulary_stay(tmp_path: Path, backend: Backend) -> None:
    longer = Backend.from_str(backend.to_str())
    longer.add_tokens([AddedToken("<think>", special=False)])
    folder = folder_with(tmp_path / "model", longer, tokenizer_class="Qwen2TokenizerFast")
    tokenizer: Any = open_tokenizer_files(str(folder), field="tokenizer.path")
    assert tokenizer.convert_tokens_to_ids("<think>") == 400


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer that can be loaded: "),
        ({"tokenizer.json": "{}"}, "no tokenizer that can be loaded: "),
        ({"tokenizer.json": "no json"}, "no tokenizer that can be loaded: "),
        ({"tokenizer_config.json": '{"tokenizer_class": "NoSuchTokenizer"}'}, "no tokenizer that can be loaded: "),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_line(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert has_tokenizer(str(tmp_path)) == bool(files)
    with pytest.raises(ConfigError) as caught:
        open_tokenizer_files(str(tmp_path), field="tokenizer.path")
    assert str(caught.value).startswith(f"tokenizer.path: {tmp_path}: {message}")
    assert "\n" not in str(caught.value)


def train_sentencepiece(folder: Path, **options: Any) -> Path:
    """As Llama 2's: BPE with bytes, digits one by one, runs of spaces kept."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
        **options,
    )
    (folder / "tokenizer.vocab").unlink()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_sentencepiece(tmp_path_factory.mktemp("sentencepiece"))


def test_a_sentencepiece_model_that_transformers_reads_otherwise_is_refused(sentencepiece_model: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_tokenizer_files(str(sentencepiece_model), field="tokenizer.path")
    assert str(caught.value).startswith(
        f"tokenizer.path: {sentencepiece_model}: transformers gives other tokens than tokenizer.model ("
    )
    assert "write a tokenizer.json beside it once, with transformers 4 and sentencepiece: " in str(caught.value)


def test_a_sentencepiece_model_that_transformers_reads_alike_is_opened(tmp_path: Path) -> None:
    """transformers 5 leaves out the space that sentencepiece puts before a text; here that puts none."""
    from sentencepiece import SentencePieceProcessor

    folder = train_sentencepiece(tmp_path, add_dummy_prefix=False)
    tokenizer = open_tokenizer_files(str(folder), field="tokenizer.path")
    theirs = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert probe_ids(tokenizer) == theirs.encode(PROBE)


def test_a_sentencepiece_model_without_sentencepiece(
    sentencepiece_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_files, "find_spec", lambda _: None)
    with pytest.raises(
        ConfigError, match=r"tokenizer\.model and no tokenizer\.json, .*pip install 'longspan\[sentencep"
    ):
        open_tokenizer_files(str(sentencepiece_model), field="tokenizer.path")


def test_a_tokenizer_model_that_is_none(sentencepiece_model: Path, tmp_path: Path) -> None:
    shutil.copytree(sentencepiece_model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")  # tiktoken's layout, under the same name
    with pytest.raises(
        ConfigError, match=r"^tokenizer\.path: .*(no tokenizer that can be loaded|is no model of senten)"
    ):
        open_tokenizer_files(str(tmp_path), field="tokenizer.path")
