"""Impactful tokens: how much a longer context tells a model about each token.

`run` scores a corpus and writes what `corpus.impact` reads; `statistics` says which kinds of token have the scores.
"""
