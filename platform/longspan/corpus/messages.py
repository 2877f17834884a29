"""The conversation in a record: what `chat` gives to the template, whole, with the few things made regular that differ
between data sets.

Roles have one name each, text parts are one text, JSON texts of tools and arguments are the values in them, and nulls
are gone, as Parquet writes them for every key that another row has.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from longspan.corpus.bad_rows import NOT_CHAT, BadRowError

Message = dict[str, Any]
"""{role, content, ...}: role and content are texts, everything else is as in the record."""
ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
SAME_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
"""Other names of roles in public data sets."""
CALLS = ("tool_calls", "function_call")
REASONING = ("reasoning_content", "reasoning", "thinking")
VALUES_FIELD = "chat_template_kwargs"
"""Of a record: more variables of the template, as in TRL's data."""
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True)
class ChatFormat:
    """How records become conversations and conversations become text.

    Attributes:
        template: Jinja template in place of the tokenizer's own.
        messages_field: holds the list of messages; a record without it is a prompt and response pair.
        role_field, content_field: of a message.
        prompt_field, response_field: of a pair.
        tools_field: of a record, the tools that the assistant may call.
        system: system message of conversations that have none.
        ignore: keys of messages, and `tools_field`, that are left out.
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
    tools_field: str = "tools"
    system: str | None = None
    ignore: Sequence[str] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    longer: Literal["drop", "turns", "cut"] = "turns"

    @property
    def record_fields(self) -> tuple[str, ...]:
        """The fields of a record that are read."""
        return (self.messages_field, self.prompt_field, self.response_field, self.tools_field, VALUES_FIELD)


class Talk(NamedTuple):
    """A conversation as the template takes it.

    Attributes:
        messages: up to the last answer; [] where there is none.
        tools: that the assistant may call, None for none.
        values: more variables of the template.
    """

    messages: list[Message]
    tools: list[Any] | None
    values: dict[str, Any]


def read_talk(record: Any, form: ChatFormat, where: str) -> Talk:
    """The conversation of a record.

    Args:
        record: {messages: [...], tools: [...]}, or {prompt, response}.
        where: names the record in messages, for example "chat.jsonl, line 3".

    Raises:
        BadRowError: a field is missing or of a wrong type, a role is unknown, or a part is no text.
    """
    if not isinstance(record, Mapping):
        raise _bad(f"{where}: a record is an object, not {type(record).__name__}")
    record = {key: value for key, value in record.items() if value is not None}
    if form.messages_field in record:
        given = record[form.messages_field]
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise _bad(f"{where}: field '{form.messages_field}' is {type(given).__name__}, not a list of messages")
        messages = [_message(item, form, f"{where}, message {number}") for number, item in enumerate(given, start=1)]
    elif form.prompt_field in record and form.response_field in record:
        pair = (("user", form.prompt_field), ("assistant", form.response_field))
        messages = [{"role": role, "content": _text(record, name, where)} for role, name in pair]
    else:
        raise _bad(
            f"{where}: neither '{form.messages_field}' nor '{form.prompt_field}' with '{form.response_field}'; it has"
            f" {list(record)[:10]} (set the names of the fields)"
        )
    answers = [number for number, message in enumerate(messages) if is_answer(message)]
    messages = messages[: answers[-1] + 1] if answers else []
    if messages and form.system is not None and messages[0]["role"] not in ("system", "developer"):
        messages.insert(0, {"role": "system", "content": form.system})
    values = record.get(VALUES_FIELD, {})
    if not isinstance(values, Mapping):
        raise _bad(f"{where}: field '{VALUES_FIELD}' is {type(values).__name__}, not an object")
    return Talk(messages, _tools(record, form, where), {**form.values, **values})


def is_answer(message: Message) -> bool:
    """Whether the message is one that the model learns to write: text, calls or reasoning of the assistant.

    `weight: 0` takes it out, as in OpenAI's format.
    """
    if message["role"] != "assistant" or message.get("weight") == 0:
        return False
    return bool(message["content"].strip()) or any(message.get(key) for key in (*CALLS, *REASONING))


def texts_in(value: Any) -> Iterator[str]:
    """All texts in a value of JSON, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from texts_in(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from texts_in(item)


def _message(item: Any, form: ChatFormat, where: str) -> Message:
    if not isinstance(item, Mapping):
        raise _bad(f"{where}: a message is an object, not {type(item).__name__}")
    role = _text(item, form.role_field, where)
    role = SAME_ROLES.get(role, role)
    if role not in ROLES:
        raise _bad(f"{where}: role '{role}' is unknown; known are {', '.join((*ROLES, *SAME_ROLES))}")
    own = (form.role_field, form.content_field)
    rest = {key: value for key, value in item.items() if key not in (*own, *form.ignore) and value is not None}
    for text in texts_in(rest):
        _check_unicode(text, "a field beside the content", where)
    if "tool_calls" in rest:
        rest["tool_calls"] = _calls(rest["tool_calls"], where)
    return {"role": role, "content": _content(item, form.content_field, len(item) > 1, where), **rest}


def _content(item: Mapping[str, Any], name: str, has_more: bool, where: str) -> str:
    """The text of a message: "" for null (transformers and vLLM give templates no null), parts joined by line ends."""
    value = item.get(name)
    if value is None and (name in item or has_more):
        return ""
    if isinstance(value, str) or value is None or not isinstance(value, Sequence):
        return _text(item, name, where)
    texts = []
    for number, part in enumerate(value, start=1):
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        if kind not in _TEXT_PARTS:
            raise _bad(f"{where}: part {number} of '{name}' is of type '{kind}'; only parts of text can be trained on")
        texts.append(_text(part, "text", f"{where}, part {number}"))
    return "\n".join(texts)


def _calls(calls: Any, where: str) -> list[Any]:
    """Tool calls with their arguments as values: templates write them as JSON, and would quote a text once more."""
    if isinstance(calls, str):
        calls = _json(calls, f"{where}: field 'tool_calls'")
    if not isinstance(calls, Sequence) or not all(isinstance(call, Mapping) for call in calls):
        raise _bad(f"{where}: field 'tool_calls' is no list of calls")
    return [_call(call, f"{where}, call {number}") for number, call in enumerate(calls, start=1)]


def _call(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = call.get("function")
    if isinstance(function, Mapping):
        return {**call, "function": _call(function, where)}
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        arguments = _json(arguments or "{}", f"{where}: field 'arguments'")
        if not isinstance(arguments, Mapping):
            raise _bad(f"{where}: field 'arguments' is {type(arguments).__name__}, not an object")
        return {**call, "arguments": arguments}
    return dict(call)


def _tools(record: Mapping[str, Any], form: ChatFormat, where: str) -> list[Any] | None:
    tools = record.get(form.tools_field)
    if form.tools_field in form.ignore or not tools:
        return None
    if isinstance(tools, str):
        tools = _json(tools, f"{where}: field '{form.tools_field}'")
    if not isinstance(tools, Sequence):
        raise _bad(f"{where}: field '{form.tools_field}' is {type(tools).__name__}, not a list of tools")
    tools = [_json(tool, f"{where}: field '{form.tools_field}'") if isinstance(tool, str) else tool for tool in tools]
    if not all(isinstance(tool, Mapping) for tool in tools):
        raise _bad(f"{where}: field '{form.tools_field}' holds something else than descriptions of tools")
    for text in texts_in(tools):
        _check_unicode(text, f"field '{form.tools_field}'", where)
    return [dict(tool) for tool in tools] or None


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(f"{what} is a text that is no JSON ({error})") from None


def _text(values: Mapping[str, Any], name: str, where: str) -> str:
    if name not in values:
        raise _bad(f"{where}: no field '{name}'; it has {list(values)[:10]} (set the names of the fields)")
    value = values[name]
    if not isinstance(value, str):
        raise _bad(f"{where}: field '{name}' is {type(value).__name__}, not text")
    _check_unicode(value, f"field '{name}'", where)
    return value


def _check_unicode(text: str, what: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _bad(f"{where}: {what} holds half a surrogate pair at character {error.start}") from None


def _bad(message: str) -> BadRowError:
    return BadRowError(NOT_CHAT, message)
