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
    """What mixes and reports call it; also part of its shards' names."""
    paths: list[str]
    """Files, folders (searched for `pattern`) or s3:// prefixes; one file is one document."""
    pattern: str = "*"
    """Compared with a file's name and with its path below the folder; hidden files are passed over."""
    max_bytes: PositiveInt | None = None
    """Stop after this many bytes of text, whole files only."""


class JsonlSource(Section):
    type: Literal["jsonl"]
    name: SourceName
    """What mixes and reports call it; also part of its shards' names."""
    paths: list[str]
    """Files, or folders and s3:// prefixes searched for *.jsonl, *.jsonl.gz, *.jsonl.zst; one line is one document."""
    text_field: str = "text"
    """The field of each line that holds the text."""


class ParquetSource(Section):
    type: Literal["parquet"]
    name: SourceName
    """What mixes and reports call it; also part of its shards' names."""
    paths: list[str]
    """Files, or folders and s3:// prefixes searched for *.parquet; one row is one document."""
    text_field: str = "text"
    """The column that holds the text."""


class ArrowSource(Section):
    type: Literal["arrow"]
    name: SourceName
    """What mixes and reports call it; also part of its shards' names."""
    paths: list[str]
    """Folders that Hugging Face datasets' `save_to_disk` wrote, files, or folders and s3:// prefixes searched for
    *.arrow and *.feather (cache-*.arrow aside); one row is one document.
    """
    text_field: str = "text"
    """The column that holds the text."""
    split: str | None = None
    """The split to take of a saved DatasetDict; may be left out where there is only one."""


class NeedleSource(Section):
    """Synthetic retrieval documents: needle records in real text, asked for later in the document."""

    type: Literal["needles"]
    name: SourceName
    """What mixes and reports call it; also part of its shards' names."""
    text_source: SourceName
    """The source whose first tokens are the text between the needles."""
    length: PositiveInt
    """Tokens in each document."""
    documents: PositiveInt
    """How many documents to make."""
    fill: tuple[Fraction, Fraction] = (0.05, 0.9)
    """Share of a document that needles and questions take, drawn uniformly from this range."""
    query_fraction: Fraction = 0.6
    """Share of those tokens that belong to questions and their answers."""
    pure_text_share: Fraction = 0.2
    """Share of documents without any needle."""


def _kind(value: Any) -> str:
    """A source without a type is text."""
    return str(value.get("type", "text") if isinstance(value, dict) else getattr(value, "type", "text"))


TextualSource = TextSource | JsonlSource | ParquetSource | ArrowSource
"""A source of texts that exist already."""
Source = Annotated[
    Annotated[TextSource, Tag("text")]
    | Annotated[JsonlSource, Tag("jsonl")]
    | Annotated[ParquetSource, Tag("parquet")]
    | Annotated[ArrowSource, Tag("arrow")]
    | Annotated[NeedleSource, Tag("needles")],
    Discriminator(_kind),
]


class Corpus(Section):
    output: str
    """Directory (local or s3://) for shards, manifest.json and tokenizer/."""
    seed: Annotated[int, Field(ge=0, lt=2**32), NUMBER] = 0
    """Seed of the synthetic documents."""
    tokenizer: Tokenizer
    """What turns text into tokens."""
    sources: list[Source]
    """Where documents come from, in the order in which they are numbered."""
    shard_tokens: PositiveInt = 8_000_000
    """Tokens a shard holds at most (a document is never cut)."""
    chunk_tokens: PositiveInt = 262_144
    """Tokens that readers fetch at once, at most; never more than `shard_tokens`."""
    unit_bytes: PositiveInt = 64 << 20
    """Bytes of input that one task tokenises; a file that cannot be divided may be more."""
    min_document_tokens: PositiveInt = 2
    """Documents of fewer tokens (bos and eos aside) are left out and counted."""

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
