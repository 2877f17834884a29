"""What a corpus is made of: the sources that `longspan prepare` tokenises into shards."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from longspan.config.fields import NUMBER, Fraction, NonNegativeFloat, Place, PositiveInt, Section
from longspan.config.tasks import Task
from longspan.uri import is_remote

SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
TableQuestion = Literal[
    "lookup",
    "reverse",
    "filter",
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "argmax",
    "argmin",
    "order",
    "next",
    "join",
    "absent",
]
"""Kinds of questions about tables; `corpus.synthesis.questions` says what each asks."""
TableFormat = Literal["csv", "markdown", "jsonl", "html"]
TableSplit = Literal["train", "eval"]


class Tokenizer(Section):
    path: Place | None = None
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


class FileSection(Section):
    """What all sources that are read from files have in common."""

    name: SourceName
    """What mixes and reports call it; also part of its shards' names."""
    paths: list[Place]
    """Files, or folders and s3:// prefixes that are searched for the names of the source's type, or for `pattern`."""
    pattern: str | None = None
    """Which files of a folder are taken: compared with a file's name and with its path below the folder. Hidden files
    are passed over. By default the names of the source's type.
    """
    anonymous: bool = False
    """The paths are in public S3 buckets: read them without credentials (s3://anonymous@bucket/... is the same)."""
    on_bad: Literal["refuse", "skip"] = "refuse"
    """What becomes of a row that cannot be a document (not JSON, not UTF-8, without its field, over-long, a
    conversation that the template refuses): `refuse` ends the preparation and names it, `skip` leaves it out and counts
    it by kind. A file that is damaged as a whole is always refused.
    """
    max_bad_share: Fraction = 0.01
    """`skip`: share of bad rows at most, of the rows so far from the thousandth on, and of all at the end."""
    max_document_bytes: PositiveInt = 256 << 20
    """A longer file of text, line or row is bad (over-long). It bounds the memory of a worker."""

    @property
    def allowed_bad_share(self) -> float:
        """Share of rows that may be bad."""
        return self.max_bad_share if self.on_bad == "skip" else 0.0

    @model_validator(mode="after")
    def _settings_fit(self) -> "FileSection":
        local = next((path for path in self.paths if self.anonymous and not is_remote(path)), None)
        if local is not None:
            raise ValueError(f"'anonymous' is for s3:// only, and {local} is a local path; leave it out")
        if self.on_bad == "refuse" and self.max_bad_share != type(self).model_fields["max_bad_share"].default:
            raise ValueError("'max_bad_share' has no meaning for on_bad 'refuse', which allows none; set on_bad: skip")
        return self


class TextualSection(FileSection):
    """What all sources of texts have in common."""

    added_tokens: Literal["ids", "text"] = "ids"
    """What a text's "<think>" becomes where the tokenizer has it as an added token that is not special: its id, as when
    the model is used, or the ids of its letters, so that no text can write a mark. Special tokens in texts are always
    text; added tokens of spaces and line ends are always ids.
    """


class LinesSection(FileSection):
    """What all sources of JSON lines have in common."""

    zst_window_bytes: PositiveInt = 128 << 20
    """Memory for the window of a .zst file at most, in each worker. `zstd --long=31` needs 2147483648."""


class TextSource(TextualSection):
    """Files of text; one file is one document."""

    type: Literal["text"] = "text"
    pattern: str = "*"
    """Which files of a folder are taken: compared with a file's name and with its path below the folder. Hidden files
    are passed over.
    """
    max_bytes: PositiveInt | None = None
    """Stop after this many bytes of text, whole files only."""


class JsonlSource(TextualSection, LinesSection):
    """JSON lines; one line is one document. In folders *.jsonl, *.ndjson, *.json.gz, *.json.zst and the first two with
    .gz or .zst.
    """

    type: Literal["jsonl"]
    text_field: str = "text"
    """The field of each line that holds the text."""


class ParquetSource(TextualSection):
    """Parquet; one row is one document. In folders *.parquet."""

    type: Literal["parquet"]
    text_field: str = "text"
    """The column that holds the text."""


class ArrowSource(TextualSection):
    """Arrow; one row is one document. Folders that Hugging Face datasets' `save_to_disk` wrote, which say themselves
    which files they are made of; in others *.arrow and *.feather, cache-*.arrow aside.
    """

    type: Literal["arrow"]
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
    tasks: dict[Task, NonNegativeFloat] = Field(default={"recall": 1.0})
    """Which tasks (corpus.synthesis.needle_tasks), by weight; each document has one."""


class SynlSource(Section):
    """Synthetic long tables with questions about them; loss on the answers, and on the eos behind a document, only."""

    type: Literal["synl"]
    name: SourceName
    """What mixes and reports call it; also part of its shards' names."""
    documents: PositiveInt
    """How many documents to make."""
    lengths: list[PositiveInt]
    """Tokens of a document at most, bos and eos included; every length is as frequent."""
    questions: PositiveInt = 8
    """Questions in each document, at most as many as there are `kinds`."""
    kinds: list[TableQuestion] = Field(default=list(get_args(TableQuestion)))
    """Kinds of questions; all are as frequent, each at all depths."""
    formats: list[TableFormat] = Field(default=list(get_args(TableFormat)))
    """How tables are written; all are as frequent, with every length."""
    split: TableSplit = "train"
    """Kinds of tables to train on, or the ones held out for evaluation."""

    @model_validator(mode="after")
    def _sets(self) -> "SynlSource":
        for name, given in (("lengths", self.lengths), ("kinds", self.kinds), ("formats", self.formats)):
            if not given or len(set(given)) < len(given):
                raise ValueError(f"'{name}' must name one or more, each once, not {given}")
        if self.questions > len(self.kinds):
            raise ValueError(f"'questions' is {self.questions}; it must be at most {len(self.kinds)}, as many as kinds")
        return self


MarkText = Annotated[str, Field(min_length=1)]


class KnotMarks(Section):
    """Texts that Untie-the-Knots puts around the chunks of a document that was cut; each may be left out.

    A text is one token of the corpus's tokenizer, special or not, where it has one of that text; else it is as many as
    it takes. The vocabulary is not changed, so take reserved or rare tokens. Loss is on `recall_between` and
    `recall_close`, as in UtK's code, and on no other mark.
    """

    head: MarkText | None = None
    """Before a chunk that does not begin its document."""
    tail: MarkText | None = None
    """After a chunk that does not end its document."""
    name_open: MarkText | None = None
    """Before the name of a chunk."""
    name_close: MarkText | None = None
    """Between the name of a chunk and its text."""
    recall_open: MarkText | None = None
    """Before the names of a document's chunks, recalled behind the last of them."""
    recall_between: MarkText | None = None
    """Between the names."""
    recall_close: MarkText | None = None
    """After them."""


class InterleavedSource(Section):
    """Long documents out of a text source's short ones, laid end to end, cut into windows and mixed in each.

    A document longer than the window fills windows of its own, where there is nothing to mix it with. What is left at
    the end is too short for a window, and left out.
    """

    type: Literal["interleaved"]
    name: SourceName
    """What mixes and reports call it; also part of its shards' names."""
    text_source: SourceName
    """The source whose documents are mixed, all of them, in its order."""
    window: Annotated[int, Field(ge=2), NUMBER]
    """Tokens of each document made, bos included. With marks it is the most: room is left for those of every document
    in a window as if each were cut into the most chunks, and what they do not use stays free.
    """
    method: Literal["cip", "utk"] = "cip"
    """`cip`: the first chunks of all documents, then all second ones, and so on; `utk`: chunks in random order
    (Untie-the-Knots, 2409.04774), with its hints where `marks` and `names` ask for them.
    """
    chunks: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """Chunks of each document, or the least and most of which each draws its own; by default 2, with `utk` [1, 3]."""
    cut: Literal["random", "equal"] = "random"
    """Where a document is cut."""
    share: Fraction = 1.0
    """Chance of a window to be mixed; the others keep whole documents one after another. UtK's models: 0.3 and 0.8."""
    keep_order: bool = True
    """`utk`: the chunks of one document stay in their order. Off: any order."""
    marks: KnotMarks | None = None
    """`utk`: tokens around the chunks of a document that was cut."""
    names: bool = False
    """`utk`: a random name before each such chunk, and all names of its document, in the document's order, behind the
    one that comes last. Needs the marks name_open, name_close and recall_open.
    """

    @property
    def chunk_bounds(self) -> tuple[int, int]:
        """The least and most chunks of a document."""
        chunks = self.chunks or ((1, 3) if self.method == "utk" else 2)
        return (chunks, chunks) if isinstance(chunks, int) else chunks

    @model_validator(mode="after")
    def _bounds(self) -> "InterleavedSource":
        if isinstance(self.chunks, tuple) and self.chunks[0] > self.chunks[1]:
            raise ValueError(f"'chunks' is {list(self.chunks)}; the least comes first")
        return self

    @model_validator(mode="after")
    def _hints_fit(self) -> "InterleavedSource":
        for name, is_set in (("marks", self.marks), ("names", self.names), ("keep_order", not self.keep_order)):
            if is_set and self.method != "utk":
                raise ValueError(f"'{name}' has no meaning for method '{self.method}'; it belongs to ['utk']")
        given = self.marks.model_dump(exclude_none=True) if self.marks else {}
        missing = [name for name in ("name_open", "name_close", "recall_open") if name not in given]
        if self.names and missing:
            raise ValueError(f"'names' needs marks.{missing[0]}, or nothing tells a name from text; give its text")
        useless = sorted(name for name in given if name.startswith(("name", "recall")))
        if useless and not self.names:
            raise ValueError(f"marks.{useless[0]} goes with names only; set names: true, or leave it out")
        return self


class ChatSource(LinesSection):
    """Conversations in the tokenizer's chat template; loss on what the assistant writes, the end of its turn included.

    The template writes bos and eos; `tokenizer.add_bos` and `add_eos` do not apply. A conversation without an answer,
    or without one that fits, is left out and counted. Messages reach the template whole (tool_calls, name,
    reasoning_content, ...). Where the template writes earlier turns in another way once others follow, as those do that
    drop earlier reasoning, the conversation becomes several documents: each answer is trained once, behind what the
    model is given for it. In folders the names of JSON lines (`jsonl`) and *.parquet.
    """

    type: Literal["chat"]
    template: str | None = None
    """Text of a Jinja template in place of the tokenizer's own."""
    messages_field: str = "messages"
    """Holds the list of messages; a record without it is a prompt and its response."""
    role_field: str = "role"
    """Of a message: who speaks."""
    content_field: str = "content"
    """Of a message: its text."""
    prompt_field: str = "prompt"
    """Of a record without messages."""
    response_field: str = "response"
    """Of a record without messages."""
    tools_field: str = "tools"
    """Of a record: the tools that the assistant may call, a list or its JSON text."""
    system: str | None = None
    """System message of conversations that have none."""
    ignore: list[str] = Field(default_factory=list)
    """Keys of messages, and of records `tools_field`, that are left out. Without it a conversation is bad where the
    template drops tool calls, tools or reasoning.
    """
    values: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """More variables of the template, for example {enable_thinking: false}."""
    max_tokens: PositiveInt | None = None
    """Tokens of a document at most."""
    longer: Literal["drop", "turns", "cut"] = "turns"
    """What becomes of a longer conversation: `drop` it, keep the first `turns` that fit, or `cut` its tokens."""


def _kind(value: Any) -> str:
    """A source without a type is text."""
    return str(value.get("type", "text") if isinstance(value, dict) else getattr(value, "type", "text"))


TextualSource = TextSource | JsonlSource | ParquetSource | ArrowSource
"""A source of texts that exist already."""
FileSource = TextSource | JsonlSource | ParquetSource | ArrowSource | ChatSource
"""A source that is read from files."""
Source = Annotated[
    Annotated[TextSource, Tag("text")]
    | Annotated[JsonlSource, Tag("jsonl")]
    | Annotated[ParquetSource, Tag("parquet")]
    | Annotated[ArrowSource, Tag("arrow")]
    | Annotated[NeedleSource, Tag("needles")]
    | Annotated[SynlSource, Tag("synl")]
    | Annotated[InterleavedSource, Tag("interleaved")]
    | Annotated[ChatSource, Tag("chat")],
    Discriminator(_kind),
]


class Corpus(Section):
    output: Place
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
        texts = {source.name for source in self.sources if isinstance(source, TextualSource)}
        for index, source in enumerate(self.sources):
            if isinstance(source, NeedleSource | InterleavedSource) and source.text_source not in texts:
                raise ValueError(f"sources.{index}.text_source: '{source.text_source}' is none of {sorted(texts)}")
        if self.sources and not texts and self.tokenizer.path is None:
            raise ValueError(
                "tokenizer: 'train_vocab_size' needs a source of texts to train on; add one or give 'path'"
            )
        return self
