"""The tasks, one a module, found by the module's name.

A task module defines

* `VALUE`, the label's column in the MEDS label schema, and `EXTENSION`, name -> polars type of what does not fit;
* `Settings`, a frozen dataclass with defaults for everything, checked on construction;
* `LOOKS_AHEAD`, the reasons for exclusion that need what comes after the prediction time (every other reason
  follows from the past alone), and `ANCHORED_AHEAD`, whether the prediction times themselves do;
* `needs(settings) -> candidates.Needs`: the roles and codes without which it cannot be made, how true times must be;
* `label(record, settings) -> candidates`, a pure function of a `record.Record` of whole subjects: one row a
  candidate with subject_id, prediction_time, VALUE, the columns of EXTENSION, and `excluded` (the reason, or null
  for a label); `unobserved` (bool), where there is one, marks labels whose horizon the record does not cover;
* where something is fitted, `count(record, settings) -> (key, count)`, `fit(counts, settings) -> list`, and a third
  argument of `label`.

Its docstring says who is eligible, when is predicted, what the outcome is, who is excluded, and about censoring.
"""
