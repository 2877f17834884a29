"""Instruction data: a conversation in the tokenizer's own chat template, with loss on the assistant's answers only.

`documents` makes the documents of chat sources here, out of what `messages` reads. Answers are found by the template's
own {% generation %} marks, or by rendering every prompt on its own and comparing it with the whole, token for token.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from longspan.corpus.bad_rows import LOST, TEMPLATE, BadRowError
from longspan.corpus.messages import CALLS, REASONING, ChatFormat, Message, Talk, is_answer, read_talk, texts_in
from longspan.corpus.writer import Document
from longspan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_CLOCK = "strftime_now"
_DATE = {"date_string": "26 Jul 2024"}
"""Templates of the Llama-3.1 kind write today's date unless given one; this is the one they have for themselves."""
_PROBE = " qz"


def chat_template(tokenizer: "PreTrainedTokenizerBase", form: ChatFormat, tools: Sequence[Any] | None = None) -> str:
    """The template that conversations with these tools are rendered by: some tokenizers have another one for tools.

    Raises:
        ConfigError: the tokenizer has none and none is given; or it writes the date of the day, so that the same data
            would give other tokens tomorrow.
    """
    try:
        template: str = tokenizer.get_chat_template(form.template, tools=list(tools) if tools else None)
    except ValueError:
        raise ConfigError(
            "chat: the tokenizer has no chat template; give the text of one (template), for example that of the"
            " model's instruction-tuned sibling"
        ) from None
    if _CLOCK in template and "date_string" not in template:
        raise ConfigError(
            "chat: the template writes today's date (strftime_now), so the same data would give other tokens"
            " tomorrow; give its text (template) with a fixed date in it"
        )
    return template


def chat_documents(
    tokenizer: "PreTrainedTokenizerBase", record: Any, form: ChatFormat, *, where: str = "record"
) -> list[Document]:
    """The conversation as the template writes it, bos and all, with a loss weight for each token.

    The weight is 1 on what the assistant writes, the token that ends its turn included, and 0 elsewhere. Special tokens
    like "<|im_end|>" inside a message stay text: a message cannot end its own turn.

    There is one document where the template marks answers itself, or writes a turn the same way whatever follows. Else
    (Qwen3's drops the reasoning of earlier turns) answers are trained in the documents that end behind them: each
    answer once, after exactly what the model is given for it.

    Args:
        record: see `messages.read_talk`.
        where: names the record in messages.

    Returns:
        The documents, shortest first; none where nothing is to be learned: no answer, or none that fits
        `form.max_tokens`.

    Raises:
        ConfigError: see `chat_template`.
        BadRowError: the record is malformed, the template refuses it or drops some of it, or its answers cannot be told
            from the rest; names the record.
    """
    talk = read_talk(record, form, where)
    if not talk.messages:
        return []
    template = chat_template(tokenizer, form, talk.tools)
    writer = _Writer(tokenizer, template, talk, where, tokenizer.added_tokens_decoder)
    _refuse_lost(writer, form)
    if _has_marks(writer):
        return _marked_documents(writer, form)
    return _compared_documents(writer, form)


@dataclass(frozen=True)
class _Writer:
    """The template with all that it is given beside messages."""

    tokenizer: "PreTrainedTokenizerBase"
    template: str
    talk: Talk
    where: str
    added: Mapping[int, Any]

    @property
    def values(self) -> dict[str, Any]:
        return {**_DATE, **self.talk.values}

    def holds_control_tokens(self) -> bool:
        """Whether a message holds a special token. Other added tokens, <think> for one, are written on purpose."""
        tokens = [token.content for token in self.added.values() if token.special and token.content.strip()]
        texts = texts_in([self.talk.messages, self.talk.tools or []])
        return any(token in text for text in texts for token in tokens)

    def text(self, messages: list[Message], *, with_tools: bool = True) -> str:
        return str(self._apply(messages, with_tools, tokenize=False))

    def ids(self, messages: list[Message], *, asks: bool, sanitize: bool) -> list[int]:
        """Token ids of the messages, and with `asks` of the words that begin the assistant's next one."""
        ids: Any = self._apply(
            messages, True, add_generation_prompt=asks, return_dict=False, sanitize_control_tokens=sanitize
        )
        return list(ids)

    def _apply(self, messages: list[Message], with_tools: bool, **how: Any) -> Any:
        with _template_errors(self.where):
            return self.tokenizer.apply_chat_template(
                messages,
                tools=self.talk.tools if with_tools else None,
                chat_template=self.template,
                **how,
                **self.values,
            )


@contextmanager
def _template_errors(where: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # whatever a template raises: its language has many errors, and no common base with ours
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadRowError(TEMPLATE, f"{where}: the chat template refuses the conversation: {reason}") from None


def _refuse_lost(writer: _Writer, form: ChatFormat) -> None:
    """Refuse a conversation of which the template drops something: texts, calls, reasoning or tools.

    A message is looked for where it matters first: in the conversation up to the answer that it is, or that follows it.
    What is there changes the text when it is changed or taken away.
    """
    messages = writer.talk.messages
    begin = 0
    for end in (number for number, message in enumerate(messages) if is_answer(message)):
        part, new = messages[: end + 1], range(begin, end + 1)
        unseen = _without_trace(writer, part, new)
        whole = ""
        for number in new:
            for key, changed in _changes(messages[number], number in unseen):
                whole = whole or writer.text(part)
                if _text_or_none(writer, [*part[:number], changed, *part[number + 1 :]]) == whole:
                    raise _lost(writer.where, f"'{key}' of message {number + 1} ({messages[number]['role']})", key)
        begin = end + 1
    if writer.talk.tools and _text_or_none(writer, messages, with_tools=False) == writer.text(messages):
        raise _lost(writer.where, f"'{form.tools_field}' of the record", form.tools_field)


def _without_trace(writer: _Writer, messages: list[Message], numbers: range) -> set[int]:
    """Those of the messages whose text does not show in the whole when each ends in a word of its own."""
    words = {number: f"{_PROBE}{number}z" for number in numbers if messages[number]["content"].strip()}
    marked = [{**m, "content": m["content"] + words.get(number, "")} for number, m in enumerate(messages)]
    text = (_text_or_none(writer, marked) or "") if words else ""
    return {number for number, word in words.items() if word.strip() not in text}


def _changes(message: Message, is_unseen: bool) -> Iterator[tuple[str, Message]]:
    """What of the message has still to be looked for, and the message with it changed."""
    if is_unseen:
        yield "content", {**message, "content": message["content"] + _PROBE}
    for keys in (*((key,) for key in CALLS), REASONING):
        given = [key for key in keys if message.get(key)]
        if given:
            yield given[0], {key: value for key, value in message.items() if key not in keys}


def _text_or_none(writer: _Writer, messages: list[Message], *, with_tools: bool = True) -> str | None:
    """None where the template refuses them: what it refuses to do without, it does not drop."""
    try:
        return writer.text(messages, with_tools=with_tools)
    except BadRowError:
        return None


def _lost(where: str, what: str, key: str) -> BadRowError:
    mend = "" if key == "content" else f", or set ignore: [{key}] to train without it"
    return BadRowError(LOST, f"{where}: the chat template drops {what}; give a template that writes it{mend}")


def _has_marks(writer: _Writer) -> bool:
    """Whether the template's own marks say which tokens are answers."""
    if not (_GENERATION.search(writer.template) and writer.tokenizer.is_fast):
        return False
    # Offsets into the text tell which tokens a mark covers; with tokens that were made harmless there are none.
    if writer.holds_control_tokens():
        return False
    messages = writer.talk.messages
    if any(message["role"] == "assistant" and message.get("weight") == 0 for message in messages):
        return False
    # Reasoning that the whole does not show is learned in documents of its own.
    whole = writer.text(messages)
    for number, message in enumerate(messages):
        if any(message.get(key) for key in REASONING):
            bare = {key: value for key, value in message.items() if key not in REASONING}
            if _text_or_none(writer, [*messages[:number], bare, *messages[number + 1 :]]) == whole:
                return False
    return True


def _marked_documents(writer: _Writer, form: ChatFormat) -> list[Document]:
    messages = writer.talk.messages
    while messages:
        with _template_errors(writer.where):
            ids, turns = _marked_turns(writer, messages)
        document = _document(writer, ids, turns)
        if form.max_tokens is None or document.tokens.size <= form.max_tokens:
            return [document]
        if form.longer != "turns":
            return _cut(document, form)
        answers = [number for number, message in enumerate(messages[:-1]) if is_answer(message)]
        messages = messages[: answers[-1] + 1] if answers else []
    return []


def _marked_turns(writer: _Writer, messages: list[Message]) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids, and [begin, end) of the tokens that the template's {% generation %} blocks wrote."""
    from transformers.utils.chat_template_utils import render_jinja_template

    # Its annotation says str; it gives the texts and, for each, [begin, end) of the marks in characters.
    rendered: Any = render_jinja_template(
        conversations=[messages],
        tools=writer.talk.tools,
        chat_template=writer.template,
        return_assistant_tokens_mask=True,
        **{**writer.tokenizer.special_tokens_map, **writer.values},
    )
    texts, marks = rendered
    encoded = writer.tokenizer(texts[0], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)
    turns = []
    for begin, end in marks[0]:
        inside = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > begin))
        if inside.size:
            turns.append((int(inside[0]), int(inside[-1]) + 1))
    return list(encoded["input_ids"]), turns


def _compared_documents(writer: _Writer, form: ChatFormat) -> list[Document]:
    """From the last answer back: a document has every answer that stands in it as if it were the last."""
    messages = writer.talk.messages
    sanitize = writer.holds_control_tokens()
    left = [number for number, message in enumerate(messages) if is_answer(message)]

    def ids(count: int, asks: bool) -> list[int]:
        return writer.ids(messages[:count], asks=asks, sanitize=sanitize) if count else []

    parts = {number: (ids(number, True), ids(number + 1, False)) for number in left}
    documents: list[Document] = []
    while left:
        last = left[-1]
        whole = parts[last][1]
        if form.max_tokens is not None and len(whole) > form.max_tokens and form.longer != "cut":
            if form.longer == "drop":
                return []
            left.pop()
            continue
        turns = {}
        for number in left:
            prompt, turn = parts[number]
            if whole[: len(prompt)] == prompt and whole[: len(turn)] == turn:
                turns[number] = (len(prompt), len(turn))
        if last not in turns:
            raise BadRowError(
                TEMPLATE,
                f"{writer.where}: the prompt of message {last + 1} is not how the conversation up to it begins in"
                " tokens, so the answer cannot be told from the rest; give a template with {% generation %} around the"
                " answers",
            )
        documents.extend(_cut(_document(writer, whole, list(turns.values())), form))
        left = [number for number in left if number not in turns]
    return documents[::-1]


def _cut(document: Document, form: ChatFormat) -> list[Document]:
    """The document if it fits, or what fits of it, or nothing."""
    limit = form.max_tokens
    if limit is None or document.tokens.size <= limit:
        return [document]
    assert document.loss_weight is not None
    tokens, weight = document.tokens[:limit], document.loss_weight[:limit]
    return [Document(tokens, weight)] if form.longer == "cut" and weight.any() else []


def _document(writer: _Writer, ids: list[int], turns: Sequence[tuple[int, int]]) -> Document:
    weight = np.zeros(len(ids), np.float32)
    for begin, end in turns:
        weight[begin : _turn_end(writer, ids, begin, end)] = 1
    if not weight.any():
        raise BadRowError(
            TEMPLATE, f"{writer.where}: the template marks no token as the assistant's; give a template that does"
        )
    return Document(np.array(ids, np.uint32), weight)


def _turn_end(writer: _Writer, ids: list[int], begin: int, end: int) -> int:
    """Where the loss of an answer in tokens [begin, end) ends: behind the token that ends the turn.

    What a template writes behind it (a line end) the model is never asked for; a mark may stop just before it.

    Raises BadRowError where no such token is there: the model would not learn to stop.
    """
    last = next((place for place in range(end - 1, begin - 1, -1) if _ends(writer, ids[place])), None)
    if last is not None and not str(writer.tokenizer.decode(ids[last + 1 : end])).strip():
        return last + 1
    if end < len(ids) and _ends(writer, ids[end]):
        return end + 1
    raise BadRowError(
        TEMPLATE,
        f"{writer.where}: the template ends the assistant's turn with no token of its own, so the model would not learn"
        " to stop; give a template that writes one (eos_token) after the answer",
    )


def _ends(writer: _Writer, token: int) -> bool:
    return token in writer.added and bool(writer.added[token].content.strip())
