"""Mistakes in corpus files, as overrides of a sound one, and what is said about each."""

CORPORA = [
    ("outptu=x", "outptu: unknown key; did you mean 'output'?"),
    ("output=null", "output: input should be a valid string, not None"),
    ("seed=-1", "seed: input should be greater than or equal to 0, not -1"),
    ("shard_tokens=0", "shard_tokens: input should be greater than 0, not 0"),
    ("chunk_tokens=0", "chunk_tokens: input should be greater than 0, not 0"),
    ("unit_bytes=-1", "unit_bytes: input should be greater than 0, not -1"),
    ("sources.0={type: parquet, name: books}", "sources.0.paths: required, but not given"),
    ("sources.0={type: parquet, name: books, paths: [a], split: x}", "sources.0.split: unknown key"),
    ("sources.0={type: arrow, name: books, paths: [a], split: [x]}", "sources.0.split: input should be a valid string"),
    ("shard_tokens=true", "shard_tokens: a number is needed, not true"),
    ("sources={}", "sources: input should be a valid list, not {}"),
    ("sources.0.pahts=[a]", "sources.0.pahts: unknown key; did you mean 'paths'?"),
    ("sources.0.paths=texts", "sources.0.paths: input should be a valid list, not 'texts'"),
    ("sources.0.max_bytes=-5", "sources.0.max_bytes: input should be greater than 0, not -5"),
    (
        "sources.0.type=csv",
        "sources.0.type: input should be one of 'text', 'jsonl', 'parquet', 'arrow', 'needles', 'synl', 'interleaved',"
        " 'chat', not 'csv'",
    ),
    ("sources.0.name=a/b", "sources.0.name: string should match pattern"),
    ("sources.1.name=books", "sources: names must differ, not ['books', 'books', 'needles']"),
    ("sources.1.text_feild=body", "sources.1.text_feild: unknown key; did you mean 'text_field'?"),
    ("sources.2.text_source=nobody", "sources.2.text_source: 'nobody' is none of ['books', 'lines']"),
    ("sources.2.fill=[0.1]", "sources.2.fill.1: required, but not given"),
    ("sources.2.fill=[0.1, 2]", "sources.2.fill.1: input should be less than or equal to 1, not 2"),
    ("sources.2.query_fraction=.nan", "sources.2.query_fraction: input should be"),
    ("sources.2.length=0", "sources.2.length: input should be greater than 0, not 0"),
    *(
        (f"sources.2={{name: made, {given}}}", message)
        for given, message in (
            ("type: synl, documents: 5", "sources.2.lengths: required, but not given"),
            ("type: synl, documents: 5, lengths: []", "sources.2: 'lengths' must name one or more"),
            (
                "type: synl, documents: 5, lengths: [9, 9]",
                "sources.2: 'lengths' must name one or more, each once, not [9, 9]",
            ),
            ("type: synl, documents: 5, lengths: [9], formats: [xml]", "sources.2.formats.0: input should be 'csv'"),
            (
                "type: synl, documents: 5, lengths: [9], kinds: [sum]",
                "sources.2: 'questions' is 8; it must be at most 1",
            ),
            (
                "type: synl, documents: 5, lengths: [9], split: test",
                "sources.2.split: input should be 'train' or 'eval'",
            ),
            ("type: interleaved, text_source: books", "sources.2.window: required, but not given"),
            (
                "type: interleaved, text_source: books, window: 1",
                "sources.2.window: input should be greater than or equal",
            ),
            (
                "type: interleaved, text_source: made, window: 9",
                "sources.2.text_source: 'made' is none of ['books', 'lines']",
            ),
            (
                "type: interleaved, text_source: books, window: 9, chunks: [3, 2]",
                "sources.2: 'chunks' is [3, 2]; the least",
            ),
            (
                "type: interleaved, text_source: books, window: 9, chunks: 0",
                "sources.2.chunks: input should be greater",
            ),
            (
                "type: interleaved, text_source: books, window: 9, names: true",
                "sources.2: 'names' has no meaning for method 'cip'; it belongs to ['utk']",
            ),
            (
                "type: interleaved, text_source: books, window: 9, method: utk, names: true, marks: {name_open: a}",
                "sources.2: 'names' needs marks.name_close, or nothing tells a name from text; give its text",
            ),
            (
                "type: interleaved, text_source: books, window: 9, method: utk, marks: {head: a, recall_open: b}",
                "sources.2: marks.recall_open goes with names only; set names: true, or leave it out",
            ),
            (
                "type: interleaved, text_source: books, window: 9, method: utk, marks: {tail: ''}",
                "sources.2.marks.tail: string should have at least 1 character",
            ),
            (
                "type: interleaved, text_source: books, window: 9, keep_order: false",
                "sources.2: 'keep_order' has no meaning for method 'cip'",
            ),
            (
                "type: interleaved, text_source: books, window: 9, share: 1.5",
                "sources.2.share: input should be less than or equal to 1",
            ),
            ("type: chat, paths: [a], longer: keep", "sources.2.longer: input should be 'drop', 'turns' or 'cut'"),
            ("type: chat, paths: [a], messages_feild: x", "sources.2.messages_feild: unknown key; did you mean"),
        )
    ),
    ("sources=[{type: chat, name: t, paths: [a]}]", "tokenizer: 'train_vocab_size' needs a source of texts"),
    ("tokenizer={}", "tokenizer: give either 'path' (an existing tokenizer) or 'train_vocab_size' (train one here)"),
    ("tokenizer.path=gpt2", "tokenizer: give either 'path'"),
    ("tokenizer={path: gpt2, needle_tokens: true}", "tokenizer: 'needle_tokens' needs 'train_vocab_size'"),
    (
        "tokenizer.train_vocab_size=256",
        "tokenizer.train_vocab_size: input should be greater than or equal to 257",
    ),
]
