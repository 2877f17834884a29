"""What a recipe will cost and cover, computed before anything is spent.

Reads the sample plan, the sizes of the model and some of the positions; the command line prints what comes out.
"""
