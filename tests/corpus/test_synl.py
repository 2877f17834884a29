"""SynL documents hold their length and balance, and every answer is what a reader of the text alone would find.

The checker below knows nothing of how documents are made: it parses the tables out of the text with the standard
library, reads the questions with regular expressions and answers them by going through all rows.
"""

import csv
import html.parser
import io
import json
import re
from collections import Counter
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.corpus.synthesis.questions import ABSENT, KINDS, Slot, ask, least_rows
from longspan.corpus.synthesis.renderings import FORMATS, Format, render
from longspan.corpus.synthesis.synl import (
    ANSWER,
    QUESTION,
    SynlDocument,
    SynlSettings,
    answer_weights,
    check_room,
    plan_document,
    synl_document,
)
from longspan.corpus.synthesis.tables import Column, Schema, Table, draw_schema, draw_table, refer, split_of
from longspan.errors import ConfigError, DataError

KEY = [7, 21]
Rows = list[dict[str, str]]


class HtmlRows(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.cell: str | None = None

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_data(self, data: str) -> None:
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.rows[-1].append(self.cell or "")
            self.cell = None


def parse(text: str, format: Format) -> Rows:
    if format == "csv":
        return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    if format == "jsonl":
        lines = text.removesuffix("\n").split("\n")
        return [json.loads(line, parse_int=str, parse_float=str) for line in lines]
    if format == "html":
        parser = HtmlRows()
        parser.feed(text)
        head, *rows = parser.rows
    else:
        lines = text.removesuffix("\n").split("\n")
        split = [
            [re.sub(r"\\(.)", r"\1", cell) for cell in re.findall(r" ((?:\\.|[^\\|])*) \|", line)] for line in lines
        ]
        head, dashes, *rows = split
        assert set(dashes) == {"---"}
    return [dict(zip(head, row, strict=True)) for row in rows]


def parse_document(document: SynlDocument) -> tuple[dict[str, Rows], list[tuple[str, str]]]:
    """Tables by title, and (question, answer) pairs, from the text alone."""
    body, *asked = document.text.split(QUESTION)
    parts = re.split(r'^Table "(.*)":\n', body, flags=re.MULTILINE)
    tables = {
        title: parse(text.rstrip("\n") + "\n", document.format)
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    pairs = [tuple(text.removesuffix("\n").split(ANSWER)) for text in asked]
    return tables, pairs  # type: ignore[return-value]


def where(rows: Rows, condition: str) -> Rows:
    found = re.fullmatch(r'where the "(.*)" is "(.*)" and the "(.*)" is from (\S+) to (\S+)', condition)
    assert found is not None
    category, value, number, low, high = found.groups()
    return [row for row in rows if row[category] == value and Decimal(low) <= Decimal(row[number]) <= Decimal(high)]


def only(rows: Rows, header: str, value: str) -> dict[str, str] | None:
    found = [row for row in rows if row[header] == value]
    assert len(found) <= 1
    return found[0] if found else None


def aggregate(name: str, numbers: list[Decimal]) -> str:
    if name == "mean":
        mean = sum(map(Fraction, numbers), Fraction()) / len(numbers)
        # 40 digits are enough: halves have few, and the numbers here have at most a dozen.
        return str((Decimal(mean.numerator) / Decimal(mean.denominator)).quantize(Decimal("0.01"), ROUND_HALF_UP))
    if name == "sum":
        return str(sum(numbers, Decimal()))
    return str({"lowest value": min, "highest value": max}[name](numbers))


def solve(tables: dict[str, Rows], text: str) -> str:
    joined = re.fullmatch(
        r'Take the "(.*)" of the row of the table "(.*)" whose "(.*)" is "(.*)"\. '
        r'What is the "(.*)" of the row of the table "(.*)" whose "(.*)" is that\?',
        text,
    )
    if joined:
        link, near, known, value, wanted, far, header = joined.groups()
        first = only(tables[near], known, value)
        assert first is not None
        second = only(tables[far], header, first[link])
        assert second is not None
        return second[wanted]
    found = re.fullmatch(r'In the table "(.*?)", (.*)', text)
    assert found is not None
    rows, rest = tables[found[1]], found[2]
    if found := re.fullmatch(r'what is the "(.*)" of the row directly below the row whose "(.*)" is "(.*)"\?', rest):
        before = only(rows, found[2], found[3])
        assert before is not None
        return rows[rows.index(before) + 1][found[1]]
    if found := re.fullmatch(r'what is the "(.*)" of the row whose "(.*)" is "(.*)"\?', rest):
        row = only(rows, found[2], found[3])
        return row[found[1]] if row else ABSENT
    if found := re.fullmatch(r'list the "(.*?)" of all rows (.*), in the order of the table\.', rest):
        return ", ".join(row[found[1]] for row in where(rows, found[2]))
    if found := re.fullmatch(r"how many rows are there (.*)\?", rest):
        return str(len(where(rows, found[1])))
    if found := re.fullmatch(
        r'what is the (.*?) of the "(.*?)" over all rows (.*?)(, rounded to 2 decimals, halves up)?\?', rest
    ):
        assert (found[4] is not None) == (found[1] == "mean")
        return aggregate(found[1], [Decimal(row[found[2]]) for row in where(rows, found[3])])
    found = re.fullmatch(r'what is the "(.*)" of the row with the (?:(\d).. )?(highest|lowest) "(.*)"\?', rest)
    assert found is not None, rest
    header = found[4]
    values = sorted((Decimal(row[header]) for row in rows), reverse=found[3] == "highest")
    assert len(set(values)) == len(values)
    value = values[int(found[2] or 1) - 1]
    return next(row[found[1]] for row in rows if Decimal(row[header]) == value)


def check_document(document: SynlDocument) -> None:
    tables, pairs = parse_document(document)
    assert {title: len(rows) for title, rows in tables.items()} == {
        table.schema.title: table.num_rows for table in document.tables
    }
    for pair, question, (begin, end) in zip(pairs, document.questions, document.spans.tolist(), strict=True):
        assert pair == (question.text, question.answer)
        assert solve(tables, question.text) == question.answer
        assert document.text[begin:end] == question.answer + "\n"
        assert document.text[:begin].endswith(ANSWER)


@pytest.mark.parametrize("format", FORMATS)
def test_a_reader_of_the_text_finds_every_answer(format: Format) -> None:
    options = SynlSettings(lengths=(7000,), questions=len(KINDS), formats=(format,))
    asked: Counter[str] = Counter()
    for number in range(10):
        document = synl_document(options, KEY, number, 2.5)
        assert document.format == format
        check_document(document)
        asked.update(question.kind for question in document.questions)
    assert asked == dict.fromkeys(KINDS, 10)


def test_a_reader_of_a_long_text_finds_every_answer() -> None:
    document = synl_document(SynlSettings(lengths=(100_000,), questions=14, split="eval"), KEY, 0, 2.5)
    check_document(document)
    assert all(split_of(table.schema) == "eval" for table in document.tables)


def test_the_answer_stands_at_the_planned_depth() -> None:
    options = SynlSettings(lengths=(9000,), questions=14)
    for number in range(10):
        plan, document = plan_document(options, KEY, number), synl_document(options, KEY, number, 2.5)
        total = sum(table.num_rows for table in document.tables)
        seen = set()
        for slot, question in zip(plan.slots, document.questions, strict=True):
            assert slot.kind == question.kind
            if question.row is None or question.depth is None:
                assert question.kind == "absent"
                assert question.answer == ABSENT
                continue
            before = document.tables[0].num_rows if question.table else 0
            assert question.depth == (before + question.row) / total
            assert int(question.depth * 10 + 1e-9) == slot.decile
            seen.add((question.table, question.row))
            table = document.tables[question.table]
            cells = [column[question.row] for column in table.cells]
            if question.kind in ("lookup", "reverse", "argmax", "argmin", "order", "next", "join"):
                assert question.answer in cells
            if question.kind == "filter":
                assert cells[0] in question.answer.split(", ")
        assert len(seen) == len([slot for slot in plan.slots if slot.kind != "absent"])


def test_lengths_formats_kinds_and_depths_are_balanced() -> None:
    options = SynlSettings(lengths=(1000, 2000, 4000), questions=5, kinds=KINDS[:10], formats=("csv", "html"))
    plans = [plan_document(options, KEY, number) for number in range(120)]
    assert set(Counter((plan.length, plan.format) for plan in plans).values()) == {20}
    for length in options.lengths:
        slots = [slot for plan in plans if plan.length == length for slot in plan.slots]
        assert Counter(slots) == {Slot(kind, decile): 2 for kind in options.kinds for decile in range(10)}
    assert max(max(Counter(slot.decile for slot in plan.slots).values()) for plan in plans) <= 2
    assert all(len({slot.kind for slot in plan.slots}) == 5 for plan in plans)
    assert len({plan.slots for plan in plans}) == 120


@pytest.mark.parametrize("format", FORMATS)
def test_the_length_is_reached_and_never_passed(format: Format) -> None:
    options = SynlSettings(lengths=(4000, 16_000, 60_000), questions=6, formats=(format,))

    def count(text: str) -> int:
        return len(re.findall(r"\w{1,4}|\W", text))

    for number in range(9):
        length = plan_document(options, KEY, number).length
        document = synl_document(options, KEY, number, count)
        assert document.num_tokens == count(document.text)
        row = count(render(document.tables[0], format)) / document.tables[0].num_rows
        assert 0 <= length - document.num_tokens <= max(0.03 * length, 3 * row)


def test_no_document_is_without_room_where_the_check_found_some() -> None:
    """A document needs 20, 30 or 40 rows, as its questions fall, in one table or two; the first may be an easy one."""
    tight, wide = (SynlSettings(lengths=(length, 9000), formats=("jsonl",)) for length in (2400, 2800))
    assert len({least_rows(plan_document(tight, KEY, number).slots) for number in range(80)}) == 3
    check_room(tight, KEY, 1, 2.5)
    with pytest.raises(ConfigError, match="SynL lengths: 2400 tokens have no room for the jsonl table"):
        check_room(tight, KEY, 80, 2.5)
    check_room(wide, KEY, 80, 2.5)
    for number in range(80):
        if plan_document(wide, KEY, number).length == 2800:
            assert synl_document(wide, KEY, number, 2.5).num_tokens <= 2800


def test_same_arguments_same_bytes_and_others_differ() -> None:
    options = SynlSettings(lengths=(6000,))
    one, two = (synl_document(options, KEY, 3, 3.0) for _ in range(2))
    assert one.text == two.text
    assert one.spans.tolist() == two.spans.tolist()
    assert one.questions == two.questions
    assert len({synl_document(options, key, n, 3.0).text for key in (KEY, [8, 21]) for n in range(3)}) == 6


MARKS = "ab Zé漢\U0001f600,;|\\\"'&<>{}[]#-:/0.=`*"
LINE = st.text(MARKS, min_size=1, max_size=8).map(lambda text: text.strip() or "x")


@settings(max_examples=40)
@given(
    heads=st.lists(LINE, min_size=2, max_size=4, unique=True),
    data=st.data(),
    number=st.sampled_from(["0", "12.50", "1000000"]),
    format=st.sampled_from(FORMATS),
)
def test_every_format_gives_the_cells_back(heads: list[str], data: st.DataObject, number: str, format: Format) -> None:
    rows = data.draw(st.lists(st.lists(LINE, min_size=len(heads), max_size=len(heads)), min_size=1, max_size=4))
    columns = (*(Column(head, "words") for head in heads), Column("a number", "float"))
    cells = (*zip(*rows, strict=True), (number,) * len(rows))
    table = Table(Schema("T", columns), cells)
    expected = [dict(zip([*heads, "a number"], [*row, number], strict=True)) for row in rows]
    assert parse(render(table, format), format) == expected


def test_no_schema_is_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    sides: dict[str, set[frozenset[tuple[str, str]]]] = {}
    for split in ("train", "eval"):
        schemas = [draw_schema(rng, split) for _ in range(150)]  # type: ignore[arg-type]
        assert {split_of(schema) for schema in schemas} == {split}
        sides[split] = {frozenset((column.header, column.kind) for column in schema.columns) for schema in schemas}
        assert len(sides[split]) > 145
    assert not sides["train"] & sides["eval"]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_title_order_and_references_do_not_change_the_side(seed: int) -> None:
    rng = np.random.default_rng(seed)
    schema, other = draw_schema(rng, "train"), draw_schema(rng, "eval")
    turned = Schema("Other title", tuple(reversed(schema.columns)))
    assert split_of(turned) == "train"
    table = refer(rng, draw_table(rng, schema, 3), draw_table(rng, other, 3))
    assert table.schema.columns[-1].kind == "reference"
    assert split_of(table.schema) == "train"


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), num_rows=st.integers(1, 60))
def test_columns_hold_what_their_kind_says(seed: int, num_rows: int) -> None:
    rng = np.random.default_rng(seed)
    table = draw_table(rng, draw_schema(rng, "train"), num_rows)
    assert table.num_rows == num_rows
    assert table.schema.columns[0].kind == "code"
    assert len(table.of_kind("int", "float")) >= 2
    assert table.of_kind("category")
    assert not set(table.absent) & set(table.cells[0])
    for column, cells in zip(table.schema.columns, table.cells, strict=True):
        if column.kind in ("int", "float", "code"):
            assert len(set(cells)) == num_rows
        if column.is_number:
            assert all(str(Decimal(cell)) == cell and Decimal(cell) >= 0 for cell in cells)
            assert {-Decimal(cell).as_tuple().exponent for cell in cells} == {column.decimals}  # type: ignore[operator]
        if column.kind == "date":
            assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", cell) for cell in cells)
        if column.kind == "category":
            assert set(cells) <= set(column.choices)


@given(
    cuts=st.lists(st.integers(0, 40), max_size=12),
    spans=st.lists(st.integers(0, 40), max_size=8, unique=True).map(sorted),
)
def test_answer_weights_are_those_of_overlapping_tokens(cuts: list[int], spans: list[int]) -> None:
    edges = sorted(cuts)
    offsets = np.array([*pairwise(edges), (0, 0)], np.int64)
    answers = np.array(list(zip(spans[::2], spans[1::2], strict=False)), np.int64).reshape(-1, 2)
    weights = answer_weights(offsets, answers)
    assert weights.dtype.name == "float32"
    expected = [
        any(set(range(begin, end)) & set(range(first, last)) for first, last in answers.tolist())
        for begin, end in offsets.tolist()
    ]
    assert weights.tolist() == expected


def test_a_real_tokenizer_weighs_answers_only() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    options = SynlSettings(lengths=(5000,), questions=14)
    document = synl_document(options, KEY, 1, 2.5)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        [document.text], trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    encoded = tokenizer(document.text, return_offsets_mapping=True, add_special_tokens=False)
    weights = answer_weights(np.array(encoded["offset_mapping"]), document.spans)
    ids = np.array(encoded["input_ids"])
    starts = np.flatnonzero(np.diff(weights, prepend=0) > 0)
    ends = np.flatnonzero(np.diff(weights, append=0) < 0) + 1
    answers = [str(tokenizer.decode(ids[begin:end])).strip() for begin, end in zip(starts, ends, strict=True)]
    assert answers == [question.answer for question in document.questions]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="the number of kinds"):
        SynlSettings(lengths=(1000,), questions=3, kinds=("lookup", "next"))
    with pytest.raises(ConfigError, match="SynL kinds"):
        SynlSettings(lengths=(1000,), questions=1, kinds=("guess",))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="SynL formats"):
        SynlSettings(lengths=(1000,), formats=("csv", "csv"))
    with pytest.raises(ConfigError, match="SynL lengths"):
        SynlSettings(lengths=())
    with pytest.raises(ConfigError, match="SynL split"):
        SynlSettings(lengths=(1000,), split="test")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="SynL lengths: 300"):
        synl_document(SynlSettings(lengths=(300,)), KEY, 0, 2.5)
    rng = np.random.default_rng(0)
    table = draw_table(rng, draw_schema(rng, "train"), 10)
    with pytest.raises(ConfigError, match="a join needs two tables"):
        ask(rng, [table], [Slot("join", 0)])
    with pytest.raises(ConfigError, match="10 rows are too few"):
        ask(rng, [table], [Slot("lookup", 3), Slot("reverse", 3)])
    for cell in ("", " a", "a\nb", "a\x85b"):
        with pytest.raises(DataError, match="row 0: bad cell"):
            Table(Schema("T", (Column("c", "words"),)), ((cell,),))
    with pytest.raises(DataError, match="columns of"):
        Table(Schema("T", (Column("c", "words"), Column("d", "words"))), (("a",), ("a", "b")))
