"""Impactful tokens: how much a longer context tells a model about each token, and what is done with that.

`run` scores a corpus, `reader` gives the scores back, `statistics` says which kinds of token they belong to,
`selection` keeps the sentences that hold them (LongRecipe), `longce` weighs the loss by them (LongCE).
"""
