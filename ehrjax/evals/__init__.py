"""L3: evaluators, baselines and the report."""
