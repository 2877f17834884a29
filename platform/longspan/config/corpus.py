"""What a corpus is made of: the sources that `longspan prepare` tokenises into shards."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from longspan.config.recipe import NUMBER, Fraction, PositiveInt, Section

SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Tokenizer(Section):
    path: str | None = None
    """Hugging Face tokenizer directory or hub name."""
    train_vocab_size: Annotated[int, Field(ge=257), NUMBER] | None = None
    """Train a byte-level BPE of this size on the text sources instead."""
    needle_tokens: bool = False
    """Add the tokens of the synthetic retrieval tasks to a tokenizer trained here."""
    add_bos: bool = True
    """Begin each text document with the tokenizer's bos token, if it has one."""
    add_eos: bool = True
    """End each text document with the tokenizer's eos token, if it has one."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "Tokenizer":
        if (self.path is None) == (self.train_vocab_size is None):
            raise ValueError("give either 'path' (an existing tokenizer) or 'train_vocab_size' (train one here)")
        if self.needle_tokens and self.path is not None:
            raise ValueError("'needle_tokens' needs 'train_vocab_size': an existing vocabulary is not changed")
        return self


class TextSource(Section):
    type: Literal["text"] = "text"
    name: SourceName
    paths: list[str]
    """Files, folders (searched for `pattern`) or s3:// prefixes; one file is one document."""
    pattern: str = "*"
    """Compared with a file's name and with its path below the folder; hidden files are passed over."""
    max_bytes: PositiveInt | None = None
    """Stop after this many bytes of text, whole files only."""


class JsonlSource(Section):
    type: Literal["jsonl"]
    name: SourceName
    paths: list[str]
    """Files, or folders and s3:// prefixes searched for *.jsonl, *.jsonl.gz, *.jsonl.zst; one line is one document."""
    text_field: str = "text"


class NeedleSource(Section):
    """Synthetic retrieval documents: needle records in real text, asked for later in the document."""

    type: Literal["needles"]
    name: SourceName
    text_source: SourceName
    """The text between the needles."""
    length: PositiveInt
    documents: PositiveInt
    fill: tuple[Fraction, Fraction] = (0.05, 0.9)
    """Share of a document that needles and questions take, drawn uniformly from this range."""
    query_fraction: Fraction = 0.6
    pure_text_share: Fraction = 0.2
    """Share of documents without any needle."""


def _kind(value: Any) -> str:
    """A source without a type is text."""
    return str(value.get("type", "text") if isinstance(value, dict) else getattr(value, "type", "text"))


Source = Annotated[
    Annotated[TextSource, Tag("text")] | Annotated[JsonlSource, Tag("jsonl")] | Annotated[NeedleSource, Tag("needles")],
    Discriminator(_kind),
]


class Corpus(Section):
    output: str
    """Directory (local or s3://) for shards, manifest.json and tokenizer/."""
    seed: Annotated[int, Field(ge=0, lt=2**32), NUMBER] = 0
    tokenizer: Tokenizer
    sources: list[Source]
    shard_tokens: PositiveInt = 8_000_000
    """Tokens a shard holds at most (a document is never cut)."""
    min_document_tokens: PositiveInt = 2

    @model_validator(mode="after")
    def _names(self) -> "Corpus":
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"sources: names must differ, not {names}")
        texts = {source.name for source in self.sources if not isinstance(source, NeedleSource)}
        for index, source in enumerate(self.sources):
            if isinstance(source, NeedleSource) and source.text_source not in texts:
                raise ValueError(f"sources.{index}.text_source: '{source.text_source}' is none of {sorted(texts)}")
        return self
