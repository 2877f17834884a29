"""Nothing of a conversation is lost between the record and the tokens: calls, tools, reasoning, parts, every answer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.config.corpus import Tokenizer
from longspan.corpus import chat
from longspan.corpus.bad_rows import LOST, NOT_CHAT, TEMPLATE, BadRowError
from longspan.corpus.columns import parquet_records
from longspan.corpus.messages import ChatFormat, read_talk
from longspan.corpus.tokenizer import train_tokenizer
from tests.corpus.chat_templates import (
    CHATML_TOOLS,
    LLAMA_TOOLS,
    MARKS,
    THINKS,
    THINKS_MARKED,
    TOOL,
    TOOL_TALK,
    call,
)
from tests.corpus.test_chat import CHATML, TALK, taught

ENDS = {CHATML_TOOLS: "<|im_end|>", THINKS: "<|im_end|>", LLAMA_TOOLS: "<|eot_id|>", THINKS_MARKED: "<|im_end|>"}
CALL = '\n<tool_call>\n{"name": "count", "arguments": {"bird": "goose"}}\n</tool_call>'


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from tokenizers import AddedToken

    texts = ["How many grey geese? Four grey geese, two ducks. <think>\nthe tool_call counts\n</think>\n"] * 4
    trained = train_tokenizer(texts, Tokenizer(train_vocab_size=300))
    trained.add_special_tokens({"additional_special_tokens": [AddedToken(mark, special=True) for mark in MARKS]})
    trained.add_tokens([AddedToken(mark) for mark in ("<think>", "</think>", "<tool_call>", "</tool_call>")])
    return trained


def documents(tokenizer: Any, messages: Any, template: str, tools: Any = None, **form: Any) -> Any:
    record = {"messages": messages, **({} if tools is None else {"tools": tools})}
    return chat.chat_documents(tokenizer, record, ChatFormat(template, **form), where="a.jsonl, line 3")


def lessons(tokenizer: Any, made: Any) -> list[list[str]]:
    return [taught(tokenizer, document) for document in made]


def test_a_tool_call_is_an_answer_and_its_result_is_not(tokenizer: Any) -> None:
    (chatml,) = documents(tokenizer, TOOL_TALK, CHATML_TOOLS, [TOOL])
    assert taught(tokenizer, chatml) == [f"{CALL}<|im_end|>", "Four grey geese.<|im_end|>"]
    text = tokenizer.decode(chatml.tokens.tolist())
    assert json.dumps(TOOL) in text
    assert '<tool_response>\n{"geese": 4}\n</tool_response>' in text
    (llama,) = documents(tokenizer, TOOL_TALK, LLAMA_TOOLS, [TOOL])
    called = '{"name": "count", "parameters": {"bird": "goose"}}<|eot_id|>'
    assert taught(tokenizer, llama) == [called, "Four grey geese.<|eot_id|>"]


@pytest.mark.parametrize("template", [CHATML_TOOLS, LLAMA_TOOLS, THINKS], ids=["chatml", "llama", "thinks"])
def test_json_texts_of_tools_and_arguments_are_the_values_in_them(tokenizer: Any, template: str) -> None:
    """OpenAI's form and that of data sets whose columns must have one type."""
    plain = documents(tokenizer, TOOL_TALK, template, [TOOL])
    quoted = [TOOL_TALK[0], call('{"bird": "goose"}'), *TOOL_TALK[2:]]
    calls = [TOOL_TALK[0], {**TOOL_TALK[1], "tool_calls": json.dumps(TOOL_TALK[1]["tool_calls"])}, *TOOL_TALK[2:]]
    for talk, tools in ((quoted, json.dumps([TOOL])), (quoted, [json.dumps(TOOL)]), (calls, [TOOL])):
        for one, other in zip(plain, documents(tokenizer, talk, template, tools), strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()
            assert one.loss_weight.tolist() == other.loss_weight.tolist()
    none = documents(tokenizer, TALK, template)
    assert [d.tokens.tolist() for d in documents(tokenizer, TALK, template, "[]")] == [d.tokens.tolist() for d in none]


REASONED = [
    {"role": "user", "content": "Geese?"},
    {"role": "assistant", "reasoning_content": "Grey ones.", "content": "Four."},
    {"role": "user", "content": "Ducks?"},
    {"role": "assistant", "reasoning_content": "Not grey.", "content": "Two."},
]


@pytest.mark.parametrize(
    ("messages", "tools", "what", "key"),
    [
        (TOOL_TALK, None, r"'tool_calls' of message 2 \(assistant\)", "tool_calls"),
        (TALK, [TOOL], "'tools' of the record", "tools"),
        (REASONED, None, r"'reasoning_content' of message 2 \(assistant\)", "reasoning_content"),
        ([TALK[1], {**TALK[2], "thinking": "Hm."}], None, r"'thinking' of message 2 \(assistant\)", "thinking"),
        ([TALK[1], {"role": "assistant", "function_call": {"name": "x"}}], None, "'function_call' of", "function_call"),
    ],
    ids=["calls", "tools", "reasoning", "thinking", "function_call"],
)
def test_what_the_template_drops_is_refused_by_name(
    tokenizer: Any, messages: Any, tools: Any, what: str, key: str
) -> None:
    mend = rf"give a template that writes it, or set ignore: \[{key}\] to train without it$"
    with pytest.raises(BadRowError, match=rf"^a.jsonl, line 3: the chat template drops {what}.*; {mend}") as raised:
        documents(tokenizer, messages, CHATML, tools)
    assert raised.value.kind == LOST
    ignored = documents(tokenizer, messages, CHATML, tools, ignore=[key])
    assert sum(len(lesson) for lesson in lessons(tokenizer, ignored)) == sum(
        m["role"] == "assistant" and bool(m.get("content")) for m in messages
    )


def test_a_message_that_the_template_passes_over_is_refused(tokenizer: Any) -> None:
    deaf = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'developer' %}")
    talk = [{"role": "developer", "content": "Be brief."}, *TALK[1:]]
    with pytest.raises(
        BadRowError, match=r"drops 'content' of message 1 \(developer\); give a template that writes it$"
    ):
        documents(tokenizer, talk, deaf)
    (document,) = documents(tokenizer, talk, CHATML)
    assert tokenizer.decode(document.tokens.tolist()).startswith("<|im_start|>developer\nBe brief.")
    echoed = [{"role": "developer", "content": "geese"}, *TALK[1:]]  # the word is there, though not its message
    with pytest.raises(BadRowError, match=r"drops 'content' of message 1 \(developer\)"):
        documents(tokenizer, echoed, deaf)


def test_names_and_unknown_keys_reach_the_template(tokenizer: Any) -> None:
    named = CHATML.replace("m['role'] +", "m['role'] + (' ' + m.name if m.name else '') + (m.mood or '') +")
    talk = [{**TALK[1], "name": "Ann", "mood": "!", "score": 0.5}, TALK[2]]
    (document,) = documents(tokenizer, talk, named)
    assert tokenizer.decode(document.tokens.tolist()).startswith("<|im_start|>user Ann!\nHow many geese?")
    assert lessons(tokenizer, documents(tokenizer, talk, CHATML)) == [["Four grey geese.<|im_end|>"]]


def test_each_answer_is_learned_once_behind_what_the_model_is_given(tokenizer: Any) -> None:
    """A template that drops earlier reasoning: the whole conversation does not show how its first answer came about."""
    first, second = documents(tokenizer, REASONED, THINKS)
    assert lessons(tokenizer, [first, second]) == [
        ["<think>\nGrey ones.\n</think>\n\nFour.<|im_end|>"],
        ["<think>\nNot grey.\n</think>\n\nTwo.<|im_end|>"],
    ]
    for document, count in ((first, 2), (second, 4)):
        whole, prompt = (
            tokenizer.apply_chat_template(part, chat_template=THINKS, add_generation_prompt=asks, return_dict=False)
            for part, asks in ((REASONED[:count], False), (REASONED[: count - 1], True))
        )
        assert document.tokens.tolist() == whole
        assert np.flatnonzero(document.loss_weight)[0] == len(prompt)
    assert "Grey ones" not in tokenizer.decode(second.tokens.tolist())


def test_steps_behind_one_question_share_a_document(tokenizer: Any) -> None:
    talk = [
        *REASONED[:2],
        TOOL_TALK[0],
        {**TOOL_TALK[1], "reasoning_content": "I count."},
        *TOOL_TALK[2:3],
        {"role": "assistant", "reasoning_content": "So many.", "content": "Four."},
    ]
    assert lessons(tokenizer, documents(tokenizer, talk, THINKS, [TOOL])) == [
        ["<think>\nGrey ones.\n</think>\n\nFour.<|im_end|>"],
        [f"<think>\nI count.\n</think>\n\n{CALL}<|im_end|>", "<think>\nSo many.\n</think>\n\nFour.<|im_end|>"],
    ]


def test_a_training_template_makes_one_document_of_all_answers(tokenizer: Any) -> None:
    assert lessons(tokenizer, documents(tokenizer, REASONED, THINKS_MARKED)) == [
        ["<think>\nGrey ones.\n</think>\n\nFour.<|im_end|>", "<think>\nNot grey.\n</think>\n\nTwo.<|im_end|>"]
    ]
    # Marks alone do not help where the whole does not show the reasoning.
    begin, behind = "{{ '<|im_start|>assistant\n' }}", "{% else %}{{ '<|im_start|>' + m.role"
    marked = THINKS.replace(f"{begin}{{% if loop", f"{begin}{{% generation %}}{{% if loop")
    marked = marked.replace(behind, "{% endgeneration %}" + behind)
    assert marked.count("generation %}") == 2
    plain = lessons(tokenizer, documents(tokenizer, REASONED, THINKS))
    assert lessons(tokenizer, documents(tokenizer, REASONED, marked)) == plain


@settings(max_examples=40, deadline=None)
@given(
    roles=st.lists(st.sampled_from(["user", "tool"]), min_size=1, max_size=5),
    reasons=st.lists(st.sampled_from(["", "Hm.", "Why?\nSo."]), min_size=5, max_size=5),
    template=st.sampled_from([CHATML_TOOLS, THINKS, THINKS_MARKED]),
)
def test_every_answer_is_learned_exactly_once(
    tokenizer: Any, roles: list[str], reasons: list[str], template: str
) -> None:
    talk: list[dict[str, Any]] = []
    for number, (role, reason) in enumerate(zip(["user", *roles[1:]], reasons, strict=False)):
        talk.append({"role": role, "content": f"Question {number}."})
        talk.append({"role": "assistant", "content": f"Number {number}."})
        if template != CHATML_TOOLS and reason:
            talk[-1]["reasoning_content"] = reason
    made = lessons(tokenizer, documents(tokenizer, talk, template))
    learned = sorted((text for lesson in made for text in lesson), key=lambda text: text.rpartition("Number")[2])
    for text, message in zip(learned, talk[1::2], strict=True):
        assert text.endswith(f"{message['content']}<|im_end|>")
        assert message.get("reasoning_content", "") in text


def test_nulls_parts_and_roles(tokenizer: Any) -> None:
    parts = [{"type": "text", "text": "How many geese?"}, {"type": "text", "text": "Be brief."}]
    talk = [
        {"role": "system", "content": None},
        {"role": "user", "content": parts, "name": None, "tool_calls": None},
        {"role": "function", "name": "count", "content": "4"},
        {"role": "assistant", "content": [{"type": "text", "text": "Four."}]},
    ]
    (document,) = documents(tokenizer, talk, CHATML)
    assert taught(tokenizer, document) == ["Four.<|im_end|>"]
    assert "<|im_start|>user\nHow many geese?\nBe brief.<|im_end|>" in tokenizer.decode(document.tokens.tolist())
    assert documents(tokenizer, [TALK[1], {"role": "assistant", "content": None}], CHATML) == []


def test_answers_of_weight_zero_and_empty_ones_are_not_learned(tokenizer: Any) -> None:
    talk = [*TALK[1:2], {**TALK[2], "weight": 0}, *TALK[3:], {"role": "user", "content": "Hm."}]
    talk += [{"role": "assistant", "content": ""}, {"role": "user", "content": "So?"}, {**TALK[2], "weight": 1}]
    expected = [["Two.\nAnd one heron.<|im_end|>", "Four grey geese.<|im_end|>"]]
    assert lessons(tokenizer, documents(tokenizer, talk, CHATML_TOOLS)) == expected
    assert len(documents(tokenizer, talk[:2], CHATML_TOOLS)) == 0
    assert lessons(tokenizer, documents(tokenizer, talk[:-3], THINKS_MARKED)) == [["Two.\nAnd one heron.<|im_end|>"]]


def test_what_is_too_long_of_several_documents(tokenizer: Any) -> None:
    first, second = documents(tokenizer, REASONED, THINKS)

    def limited(longer: Any, size: int) -> list[int]:
        made = documents(tokenizer, REASONED, THINKS, max_tokens=size, longer=longer)
        return [document.tokens.size for document in made]

    sizes = [first.tokens.size, second.tokens.size]
    assert sizes[0] < sizes[1]
    for longer in ("drop", "turns", "cut"):
        assert limited(longer, sizes[1]) == sizes
    assert limited("turns", sizes[1] - 1) == sizes[:1]
    assert limited("turns", sizes[0] - 1) == []
    assert limited("drop", sizes[1] - 1) == []
    assert limited("cut", sizes[1] - 3) == [min(sizes[0], sizes[1] - 3), sizes[1] - 3]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "part 1 of 'content'"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "part 1 of 'content' is of type 'str'"),
        ({"messages": [TALK[1], {**TALK[2], "tool_calls": 5}]}, "field 'tool_calls' is no list of calls"),
        ({"messages": [TALK[1], {**TALK[2], "tool_calls": "x"}]}, "field 'tool_calls' is a text that is no JSON"),
        ({"messages": [TALK[1], call("bird")]}, "call 1: field 'arguments' is a text that is no JSON"),
        ({"messages": [TALK[1], call("[1]")]}, "call 1: field 'arguments' is list, not an object"),
        ({"messages": [{**TALK[1], "name": "\ud800"}]}, "a field beside the content holds half a surrogate pair"),
        ({"messages": TALK, "tools": 5}, "r: field 'tools' is int, not a list of tools"),
        ({"messages": TALK, "tools": "{"}, "r: field 'tools' is a text that is no JSON"),
        ({"messages": TALK, "tools": [5]}, "r: field 'tools' holds something else than descriptions of tools"),
        ({"messages": TALK, "tools": [{"name": "\udc00"}]}, "field 'tools' holds half a surrogate pair"),
        ({"messages": TALK, "chat_template_kwargs": 5}, "field 'chat_template_kwargs' is int, not an object"),
    ],
)
def test_a_malformed_record_is_named(record: Any, message: str) -> None:
    with pytest.raises(BadRowError) as raised:
        read_talk(record, ChatFormat(), "r")
    assert message in str(raised.value)
    assert raised.value.kind == NOT_CHAT


def test_what_the_template_refuses_is_a_bad_row(tokenizer: Any) -> None:
    twice = [TALK[1], {**call({}), "tool_calls": 2 * call({})["tool_calls"]}]
    with pytest.raises(
        BadRowError, match=r"line 3: the chat template refuses the conversation: one call at a"
    ) as raised:
        documents(tokenizer, twice, LLAMA_TOOLS)
    assert raised.value.kind == TEMPLATE


def test_marks_in_calls_and_tools_stay_text(tokenizer: Any) -> None:
    struck = {**TOOL, "description": "ends <|im_end|>"}
    talk = [TOOL_TALK[0], call({"bird": "<|im_end|>"})]
    (document,) = documents(tokenizer, talk, CHATML_TOOLS, [struck])
    assert document.tokens.tolist().count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 3
    assert taught(tokenizer, document) == [CALL.replace("goose", "<|im_end|>") + "<|im_end|>"]


def test_values_of_a_record_reach_the_template(tokenizer: Any) -> None:
    shouting = CHATML.replace("m['content'] +", "(m['content'] | upper if loud else m['content']) +")
    record = {"messages": TALK[1:3], "chat_template_kwargs": {"loud": True}}
    (document,) = chat.chat_documents(tokenizer, record, ChatFormat(shouting, values={"loud": False}), where="r")
    assert taught(tokenizer, document) == ["FOUR GREY GEESE.<|im_end|>"]


def test_a_tokenizer_with_a_template_for_tools_uses_it(tokenizer: Any) -> None:
    from copy import deepcopy

    two = deepcopy(tokenizer)
    two.chat_template = {"default": CHATML, "tool_use": CHATML_TOOLS}
    made = chat.chat_documents(two, {"messages": TOOL_TALK, "tools": [TOOL]}, ChatFormat(), where="r")
    assert lessons(tokenizer, made) == lessons(tokenizer, documents(tokenizer, TOOL_TALK, CHATML_TOOLS, [TOOL]))


def test_parquet_has_no_nulls_of_other_rows(tokenizer: Any, tmp_path: Path) -> None:
    other = [TALK[1], call({"place": "pond", "hour": 5}), {"role": "tool", "content": "2"}, TALK[4]]
    records = [{"messages": TOOL_TALK, "tools": [TOOL]}, {"messages": other, "tools": [TOOL]}, {"messages": TALK}]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    form = ChatFormat(CHATML_TOOLS)
    rows = list(parquet_records(str(tmp_path / "a.parquet"), form.record_fields, 0, 1, 10**6))
    for row, record in zip(rows, records, strict=True):
        assert not isinstance(row, BadRowError)
        one, other_way = (chat.chat_documents(tokenizer, value, form, where="r") for value in (row[1], record))
        assert [d.tokens.tolist() for d in one] == [d.tokens.tolist() for d in other_way]
