"""Methods side by side: one base, one corpus, one budget, several seeds, one table.

`run` is the way in. Nothing is imported here, so that `pool`'s processes start before torch is there.
"""
