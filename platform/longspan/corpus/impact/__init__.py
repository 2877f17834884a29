"""Scores of a corpus's tokens beside the corpus: how they lie in files, and what is made of them.

`impact` (the room of the models) writes them, `manifest`, `parts` and `settings` say what they are. `reader` gives them
back to the feed, which keeps the sentences that hold them (`selection`, LongRecipe; `vocabulary` for texts that were
not scored) and weighs the loss by them (`longce`, LongCE).
"""
