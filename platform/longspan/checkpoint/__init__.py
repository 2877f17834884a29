"""Save, commit, verify, resume, retain, export: a checkpoint exists when its commit record does."""
