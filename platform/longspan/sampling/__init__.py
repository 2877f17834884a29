"""Which tokens each training sample takes: the sample plan, a pure function of the recipe and the corpus's lengths.

Stands between `corpus/` (chunks, documents and their lengths) and `feed/` (which reads the plan's rows); `planner/`
shows its figures.
"""
