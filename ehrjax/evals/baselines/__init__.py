"""Baselines of the evaluation report: features counted from raw events, simple models on them, groups of subjects."""
