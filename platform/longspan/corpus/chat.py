"""Instruction data: a conversation in the tokenizer's own chat template, with loss on the assistant's answers only.

`documents` makes the documents of chat sources here. Answers are found by the template's own {% generation %} marks,
or by rendering every prompt on its own and comparing it with the whole, token for token.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from longspan.corpus.writer import Document
from longspan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]
ROLES = ("system", "user", "assistant", "tool")
SAME_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
"""Other names of roles in public data sets."""
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_CLOCK = "strftime_now"
_DATE = {"date_string": "26 Jul 2024"}
"""Templates of the Llama-3.1 kind write today's date unless given one; this is the one they have for themselves."""


@dataclass(frozen=True)
class ChatFormat:
    """How records become conversations and conversations become text.

    Attributes:
        template: Jinja template in place of the tokenizer's own.
        messages_field: holds the list of messages; a record without it is a prompt and response pair.
        role_field, content_field: of a message.
        prompt_field, response_field: of a pair.
        system: system message of conversations that have none.
        values: more variables of the template.
        max_tokens: longest document; None for no limit.
        longer: what becomes of a longer conversation: `drop` it, keep the first `turns` that fit, or `cut` its tokens.
    """

    template: str | None = None
    messages_field: str = "messages"
    role_field: str = "role"
    content_field: str = "content"
    prompt_field: str = "prompt"
    response_field: str = "response"
    system: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    longer: Literal["drop", "turns", "cut"] = "turns"


def chat_template(tokenizer: "PreTrainedTokenizerBase", form: ChatFormat) -> str:
    """The template that conversations are rendered by.

    Raises:
        ConfigError: the tokenizer has none and none is given; or it writes the date of the day, so that the same data
            would give other tokens tomorrow.
    """
    try:
        template: str = tokenizer.get_chat_template(form.template)
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


def read_messages(record: Any, form: ChatFormat, where: str) -> Messages:
    """The conversation of a record, as {role, content} up to the last answer of the assistant; [] where there is none.

    Args:
        record: {messages: [...]}, or {prompt, response}.
        where: names the record in messages, for example "chat.jsonl, line 3".

    Raises:
        DataError: a field is missing or not text, or a role is unknown.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: a record is an object, not {type(record).__name__}")
    if form.messages_field in record:
        given = record[form.messages_field]
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise DataError(f"{where}: field '{form.messages_field}' is {type(given).__name__}, not a list of messages")
        messages = [_message(item, form, f"{where}, message {number}") for number, item in enumerate(given, start=1)]
    elif form.prompt_field in record and form.response_field in record:
        pair = (("user", form.prompt_field), ("assistant", form.response_field))
        messages = [{"role": role, "content": _text(record, name, where)} for role, name in pair]
    else:
        raise DataError(
            f"{where}: neither '{form.messages_field}' nor '{form.prompt_field}' with '{form.response_field}'; it has"
            f" {list(record)[:10]} (set the names of the fields)"
        )
    answers = [n for n, one in enumerate(messages) if one["role"] == "assistant" and one["content"].strip()]
    messages = messages[: answers[-1] + 1] if answers else []
    if messages and form.system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": form.system})
    return messages


def _message(item: Any, form: ChatFormat, where: str) -> dict[str, str]:
    if not isinstance(item, Mapping):
        raise DataError(f"{where}: a message is an object, not {type(item).__name__}")
    role = _text(item, form.role_field, where)
    role = SAME_ROLES.get(role, role)
    if role not in ROLES:
        raise DataError(f"{where}: role '{role}' is unknown; known are {', '.join((*ROLES, *SAME_ROLES))}")
    return {"role": role, "content": _text(item, form.content_field, where)}


def _text(values: Mapping[str, Any], name: str, where: str) -> str:
    if name not in values:
        raise DataError(f"{where}: no field '{name}'; it has {list(values)[:10]} (set the names of the fields)")
    value = values[name]
    if not isinstance(value, str):
        raise DataError(f"{where}: field '{name}' is {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: field '{name}' holds half a surrogate pair at character {error.start}") from None
    return value


def chat_document(
    tokenizer: "PreTrainedTokenizerBase", record: Any, form: ChatFormat = ChatFormat(), *, where: str = "record"
) -> Document | None:
    """The conversation as the template writes it, bos and all, with a loss weight for each token.

    The weight is 1 on what the assistant writes, the token that ends its turn included, and 0 elsewhere. Marks like
    "<|im_end|>" inside a message stay text: a message cannot end its own turn.

    Args:
        record: see `read_messages`.
        where: names the record in messages.

    Returns:
        None where nothing is to be learned: no answer in it, or none that fits `form.max_tokens`.

    Raises:
        ConfigError: see `chat_template`.
        DataError: the record is malformed, the template refuses it, or its answers cannot be told from the rest; names
            the record.
    """
    template = chat_template(tokenizer, form)
    messages = read_messages(record, form, where)
    while messages:
        tokens, weight = _render(tokenizer, template, messages, form, where)
        if form.max_tokens is None or tokens.size <= form.max_tokens:
            return Document(tokens, weight)
        if form.longer == "drop":
            return None
        if form.longer == "cut":
            tokens, weight = tokens[: form.max_tokens], weight[: form.max_tokens]
            return Document(tokens, weight) if weight.any() else None
        answers = [n for n, one in enumerate(messages[:-1]) if one["role"] == "assistant" and one["content"].strip()]
        messages = messages[: answers[-1] + 1] if answers else []
    return None


def _render(
    tokenizer: "PreTrainedTokenizerBase", template: str, messages: Messages, form: ChatFormat, where: str
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Tokens uint32 [n] and loss weights float32 [n] of a whole conversation."""
    added = {number: token for number, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    # Other added tokens, <think> for one, are written on purpose.
    has_marks = any(token.special and token.content in one["content"] for one in messages for token in added.values())
    values = {**_DATE, **form.values}
    try:
        # Offsets into the text tell which tokens a mark covers; with tokens that were made harmless there are none.
        if _GENERATION.search(template) and tokenizer.is_fast and not has_marks:
            ids, turns = _marked_turns(tokenizer, template, messages, values)
        else:
            ids, turns = _compared_turns(tokenizer, template, messages, values, has_marks, where)
    except DataError:
        raise
    except Exception as error:  # whatever a template raises: its language has many errors, and no common base with ours
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{where}: the chat template refuses the conversation: {reason}") from None
    weight = np.zeros(len(ids), np.float32)
    for begin, end in turns:
        weight[begin : _turn_end(tokenizer, ids, begin, end, frozenset(added), where)] = 1
    if not weight.any():
        raise DataError(f"{where}: the template marks no token as the assistant's; give a template that does")
    return np.array(ids, np.uint32), weight


def _marked_turns(
    tokenizer: "PreTrainedTokenizerBase", template: str, messages: Messages, values: Mapping[str, Any]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids, and [begin, end) of the tokens that the template's {% generation %} blocks wrote."""
    from transformers.utils.chat_template_utils import render_jinja_template

    # Its annotation says str; it gives the texts and, for each, [begin, end) of the marks in characters.
    rendered: Any = render_jinja_template(
        conversations=[messages],
        chat_template=template,
        return_assistant_tokens_mask=True,
        **{**tokenizer.special_tokens_map, **values},
    )
    texts, marks = rendered
    encoded = tokenizer(texts[0], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)
    turns = []
    for begin, end in marks[0]:
        inside = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > begin))
        if inside.size:
            turns.append((int(inside[0]), int(inside[-1]) + 1))
    return list(encoded["input_ids"]), turns


def _compared_turns(
    tokenizer: "PreTrainedTokenizerBase",
    template: str,
    messages: Messages,
    values: Mapping[str, Any],
    has_marks: bool,
    where: str,
) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids, and [begin, end) of each answer: from the end of its prompt to the end of the turn, rendered alone.

    Raises DataError where the prompt, or the conversation up to the turn, is no prefix of the whole.
    """

    def encode(part: Messages, asks: bool) -> list[int]:
        ids: Any = tokenizer.apply_chat_template(
            part,
            chat_template=template,
            add_generation_prompt=asks,
            tokenize=True,
            return_dict=False,
            sanitize_control_tokens=has_marks,
            **values,
        )
        return list(ids)

    whole = encode(messages, False)
    turns = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = encode(messages[:number], True) if number else []
        turn = whole if number == len(messages) - 1 else encode(messages[: number + 1], False)
        for what, ids in (("the prompt of", prompt), ("the conversation up to", turn)):
            if whole[: len(ids)] != ids:
                raise DataError(
                    f"{where}: {what} message {number + 1} is not how the whole conversation begins in tokens, so the"
                    " answer cannot be told from the rest; give a template with {% generation %} around the answers"
                )
        turns.append((len(prompt), len(turn)))
    return whole, turns


def _turn_end(
    tokenizer: "PreTrainedTokenizerBase", ids: list[int], begin: int, end: int, control: frozenset[int], where: str
) -> int:
    """Where the loss of an answer in tokens [begin, end) ends: behind the token that ends the turn.

    What a template writes behind it (a line end) the model is never asked for; a mark may stop just before it.

    Raises DataError where no such token is there: the model would not learn to stop.
    """
    last = next((place for place in range(end - 1, begin - 1, -1) if ids[place] in control), None)
    if last is not None and not str(tokenizer.decode(ids[last + 1 : end])).strip():
        return last + 1
    if end < len(ids) and ids[end] in control:
        return end + 1
    raise DataError(
        f"{where}: the template ends the assistant's turn with no token of its own, so the model would not learn to"
        " stop; give a template that writes one (eos_token) after the answer"
    )
