"""The steps of token grammars, one a module, found by the module's name.

A step defines `Settings` (a frozen dataclass; what is wrong raises InputError) and
`apply(events, settings, fitted) -> events`, a pure function of whole subjects in order. Columns: subject_id, time,
code, numeric_value, visit_id, and what steps set: `bin` (null: none), `visit`, and `added`, true on rows that a step
added (`step_rows`). An event's token is its code, or `code//Qk` where it has the bin k.

A step that is fitted also defines `KEYS`, `count(events, settings)` (KEYS and an integer `count`, added up over the
train split), `fit(counts, settings)` and `FITTED`, the schema of the table that `fit` returns; `apply` gets that table.

Three optional marks make preparation faster and change nothing else. `CATEGORIES = True`: codes may come as Categorical
(a step without it sees Strings). `BY_CODE = True`: `apply` looks at codes alone. `COUNTED` and `COUNTED_ROWS`: the
columns and the rows that `count` reads; behind steps that are BY_CODE only these are read and passed on.

A step that adds tokens with a time may say which: `details(strings, settings) -> [N] bool` those that tell more of the
event in front of them, `marks(strings, settings)` those that stand between events and are none (`token_roles`).

`needs(settings)` says what of the times it uses, 'order' (default), 'intervals' or 'dates'; a source
whose times are not good for that is refused.
"""
