"""Conversations become documents whose loss lies on the assistant's words and the tokens that end its turns."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.config.corpus import Tokenizer
from longspan.corpus import chat
from longspan.corpus.bad_rows import BadRowError
from longspan.corpus.encoding import encode
from longspan.corpus.messages import ChatFormat, read_talk
from longspan.corpus.tokenizer import train_tokenizer
from longspan.errors import ConfigError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + (m['content'] | trim) + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML_MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3_MARKED = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] | trim }}{% endgeneration %}"
    "{% else %}{{ m['content'] | trim }}{% endif %}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ENDS = {CHATML: "<|im_end|>", LLAMA3: "<|eot_id|>", CHATML_MARKED: "<|im_end|>", LLAMA3_MARKED: "<|eot_id|>"}
NAMES = {CHATML: "chatml", LLAMA3: "llama3", CHATML_MARKED: "chatml-marked", LLAMA3_MARKED: "llama3-marked"}
MARKS = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEMPLATES = pytest.mark.parametrize("template", list(ENDS), ids=NAMES.get)
TALK = [
    {"role": "system", "content": "You answer in one line."},
    {"role": "user", "content": "How many geese?"},
    {"role": "assistant", "content": "Four grey geese."},
    {"role": "user", "content": "And ducks?"},
    {"role": "assistant", "content": "Two.\nAnd one heron."},
]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE with the control tokens of both kinds of template, as a model's own would have."""
    from tokenizers import AddedToken

    texts = ["How many grey geese are there? Four grey geese, two ducks and one heron answer in one line.\n"] * 4
    trained = train_tokenizer(texts, Tokenizer(train_vocab_size=300))
    trained.add_special_tokens({"additional_special_tokens": [AddedToken(mark, special=True) for mark in MARKS]})
    return trained


PLAIN = ChatFormat()


def chat_document(tokenizer: Any, record: Any, form: ChatFormat = PLAIN, where: str = "record") -> Any:
    """The only document, or None. Of no declared type: most tests know that it is not None."""
    documents = chat.chat_documents(tokenizer, record, form, where=where)
    assert len(documents) < 2
    return documents[0] if documents else None


def taught(tokenizer: Any, document: Any) -> list[str]:
    """The text of every run of tokens with weight 1."""
    assert document.tokens.dtype == np.uint32
    assert document.loss_weight.dtype == np.float32
    assert document.tokens.shape == document.loss_weight.shape
    assert set(np.unique(document.loss_weight)) <= {0.0, 1.0}
    edges = np.flatnonzero(np.diff(np.concatenate([[0], document.loss_weight, [0]])))
    return [tokenizer.decode(document.tokens[a:b].tolist()) for a, b in edges.reshape(-1, 2)]


@TEMPLATES
def test_loss_is_on_the_answers_and_on_what_ends_their_turns(tokenizer: Any, template: str) -> None:
    document = chat_document(tokenizer, {"messages": TALK}, ChatFormat(template))
    end = ENDS[template]
    assert taught(tokenizer, document) == [f"Four grey geese.{end}", f"Two.\nAnd one heron.{end}"]
    rendered = tokenizer.apply_chat_template(TALK, chat_template=template, tokenize=True, return_dict=False)
    assert document.tokens.tolist() == rendered


@pytest.mark.parametrize(("plain", "marked"), [(CHATML, CHATML_MARKED), (LLAMA3, LLAMA3_MARKED)])
@settings(max_examples=25, deadline=None)
@given(
    contents=st.lists(
        st.text("abc .?\n\u00e9\u4e2d", min_size=1, max_size=12).filter(str.strip), min_size=2, max_size=6
    )
)
def test_both_ways_to_find_the_answers_agree(tokenizer: Any, plain: str, marked: str, contents: list[str]) -> None:
    talk = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)]
    one = chat_document(tokenizer, {"messages": talk}, ChatFormat(plain))
    other = chat_document(tokenizer, {"messages": talk}, ChatFormat(marked))
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.loss_weight.tolist() == other.loss_weight.tolist()
    assert len(taught(tokenizer, one)) == len(contents) // 2


@TEMPLATES
def test_a_mark_inside_a_message_stays_text(tokenizer: Any, template: str) -> None:
    end = ENDS[template]
    talk = [
        {"role": "user", "content": f"What is {end}?"},
        {"role": "assistant", "content": f"A mark, {end} it is.<|bos|>"},
    ]
    document = chat_document(tokenizer, {"messages": talk}, ChatFormat(template))
    assert taught(tokenizer, document) == [f"A mark, {end} it is.<|bos|>{end}"]
    assert document.tokens.tolist().count(tokenizer.convert_tokens_to_ids(end)) == 2
    bos = document.tokens.tolist().count(tokenizer.bos_token_id)
    assert bos == template.count("bos_token")


def test_pairs_and_other_names_of_fields_and_roles(tokenizer: Any) -> None:
    pair = {"instruction": "How many geese?", "output": "Four."}
    form = ChatFormat(CHATML, prompt_field="instruction", response_field="output", system="Be brief.")
    document = chat_document(tokenizer, pair, form)
    assert taught(tokenizer, document) == ["Four.<|im_end|>"]
    assert tokenizer.decode(document.tokens.tolist()).startswith("<|im_start|>system\nBe brief.<|im_end|>")
    shared = {"conversations": [{"from": "human", "value": "Geese?"}, {"from": "gpt", "value": "Four."}]}
    form = ChatFormat(CHATML, messages_field="conversations", role_field="from", content_field="value")
    assert taught(tokenizer, chat_document(tokenizer, shared, form)) == ["Four.<|im_end|>"]


def test_what_follows_the_last_answer_is_left_out(tokenizer: Any) -> None:
    longer = {"messages": [*TALK, {"role": "user", "content": "Thanks."}, {"role": "assistant", "content": " "}]}
    one, other = (chat_document(tokenizer, record, ChatFormat(LLAMA3)) for record in (longer, {"messages": TALK}))
    assert one.tokens.tolist() == other.tokens.tolist()
    assert chat_document(tokenizer, {"messages": TALK[:2]}, ChatFormat(LLAMA3)) is None
    assert chat_document(tokenizer, {"prompt": "Geese?", "response": ""}, ChatFormat(LLAMA3)) is None


@pytest.mark.parametrize("template", [CHATML, CHATML_MARKED], ids=NAMES.get)
def test_a_conversation_that_is_too_long(tokenizer: Any, template: str) -> None:
    whole = chat_document(tokenizer, {"messages": TALK}, ChatFormat(template))
    first = chat_document(tokenizer, {"messages": TALK[:3]}, ChatFormat(template))
    size = whole.tokens.size

    def limited(longer: Any, max_tokens: int) -> Any:
        return chat_document(tokenizer, {"messages": TALK}, ChatFormat(template, max_tokens=max_tokens, longer=longer))

    for longer in ("drop", "turns", "cut"):
        assert limited(longer, size).tokens.tolist() == whole.tokens.tolist()
    assert limited("drop", size - 1) is None
    assert limited("turns", size - 1).tokens.tolist() == first.tokens.tolist()
    assert limited("turns", first.tokens.size - 1) is None
    assert limited("cut", size - 3).tokens.tolist() == whole.tokens.tolist()[: size - 3]
    assert limited("cut", 5) is None


def test_without_a_template_and_with_a_clock(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"^chat: the tokenizer has no chat template; give the text of one"):
        chat_document(tokenizer, {"messages": TALK})
    with pytest.raises(ConfigError, match="writes today's date"):
        chat_document(tokenizer, {"messages": TALK}, ChatFormat("{{ strftime_now('%d') }}" + LLAMA3))
    dated = "{% if not date_string is defined %}{% set date_string = strftime_now('%d') %}{% endif %}{{ date_string }}"
    document = chat_document(tokenizer, {"messages": TALK}, ChatFormat(dated + LLAMA3))
    assert tokenizer.decode(document.tokens.tolist()).startswith("26 Jul 2024")
    document = chat_document(tokenizer, {"messages": TALK}, ChatFormat(dated + LLAMA3, values={"date_string": "X"}))
    assert tokenizer.decode(document.tokens.tolist()).startswith("X<|bos|>")


MERGES = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
ENDLESS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRICT = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}" + CHATML


@pytest.mark.parametrize(
    ("template", "talk", "message"),
    [
        (
            MERGES,
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "grey"}],
            "the prompt of message 2",
        ),
        (ENDLESS, TALK, "ends the assistant's turn with no token of its own"),
        (STRICT, TALK, r"^a.jsonl, line 3: the chat template refuses the conversation: begin with the user$"),
        ("{{ messages[0].content.missing.deeper }}", TALK, "the chat template refuses the conversation"),
        (CHATML + "{% generation %}{% endgeneration %}", TALK, "marks no token as the assistant's"),
    ],
    ids=["merges", "endless", "strict", "broken", "no-mark"],
)
def test_a_template_whose_answers_cannot_be_found(
    tokenizer: Any, template: str, talk: list[dict[str, str]], message: str
) -> None:
    """' grey' is one token of this vocabulary, so a prompt that ends in a space is no prefix of the whole."""
    with pytest.raises(BadRowError, match=message):
        chat_document(tokenizer, {"messages": talk}, ChatFormat(template), where="a.jsonl, line 3")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (["x"], "r: a record is an object, not list"),
        ({"text": "x"}, "r: neither 'messages' nor 'prompt' with 'response'; it has ['text']"),
        ({"messages": "x"}, "r: field 'messages' is str, not a list of messages"),
        ({"messages": [1]}, "r, message 1: a message is an object, not int"),
        ({"messages": [{"role": "user"}]}, "r, message 1: no field 'content'; it has ['role']"),
        ({"messages": [{"role": "user", "content": 5}]}, "r, message 1: field 'content' is int, not text"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "r, message 1: role 'narrator' is unknown"),
        ({"prompt": "x", "response": 3}, "r: field 'response' is int, not text"),
    ],
)
def test_a_malformed_record_is_named(record: Any, message: str) -> None:
    with pytest.raises(BadRowError) as raised:
        read_talk(record, ChatFormat(), "r")
    assert str(raised.value).startswith(message)


def test_a_vocabulary_that_marks_the_beginnings_of_words() -> None:
    """As Mistral's: spaces belong to the word behind them, and the template puts one between prompt and answer."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    backend.train_from_iterator(["How many grey geese? Four grey geese. And ducks? Two."] * 3, trainer)
    backend.add_special_tokens([AddedToken(mark, special=True) for mark in ("[INST]", "[/INST]")])
    words = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + '[/INST]' }}"
        "{% else %}{% generation %}{{ ' ' + m['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    )
    plain = template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    one, other = (chat_document(words, {"messages": TALK[1:]}, ChatFormat(text)) for text in (template, plain))
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.loss_weight.tolist() == other.loss_weight.tolist()
    assert [text.replace(" ", "") for text in taught(words, one)] == [
        "Fourgreygeese.</s>",
        "Two.<unk>Andone<unk>eron.</s>",
    ]
    struck = {"prompt": "Geese?", "response": "Four </s> geese."}
    for text in (template, plain):
        document = chat_document(words, struck, ChatFormat(text))
        assert document.tokens.tolist().count(words.eos_token_id) == 1
        assert document.tokens[-1] == words.eos_token_id


@TEMPLATES
def test_texts_and_conversations_share_a_tokenizer(tokenizer: Any, template: str) -> None:
    """Text sources have marks encoded as text; what a template writes must stay marks all the same, and the reverse."""
    before = chat_document(tokenizer, {"messages": TALK}, ChatFormat(template)).tokens.tolist()
    text = next(iter(encode(tokenizer, ["<|im_end|>"]))).tolist()
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in text
    assert chat_document(tokenizer, {"messages": TALK}, ChatFormat(template)).tokens.tolist() == before
    assert next(iter(encode(tokenizer, ["<|im_end|>"]))).tolist() == text
