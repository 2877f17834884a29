"""What a run did, said to people: metrics.jsonl, progress, trackers, plots, the console table and the HTML report.

Training and evaluation write numbers through this room; nothing here feeds back into a run. matplotlib, wandb and
jinja2 are imported only by the functions that need them.
"""
