"""Which tokens each training sample takes: the sample plan, a pure function of the recipe and the document index.

Stands between `corpus/` (documents and their lengths) and `feed/` (which reads the plan's rows).
"""
