"""Synthetic long-context documents: needles, interleaved documents (CIP, Untie-the-Knots) and tables (SynL).

Pure: no files, no Ray, no tokenizer. `corpus.documents` makes them as units of `prepare`, as source types of a corpus
configuration (`needles`, `interleaved`, `synl`), so they are stored and sampled like any other source. Needles and
interleaved documents are made of the tokens of a text source once its shards are written; tables are made as text and
tokenised. `evaluate` takes needle tasks from here, and tables with held-out schemas may be had for it.
"""
