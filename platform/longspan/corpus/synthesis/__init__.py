"""Synthetic long-context documents, made as token ids before they are written as shards.

Stands between the tokenised text of `corpus/` and its shard writer: what is made here is stored and sampled like any
other source.
"""
