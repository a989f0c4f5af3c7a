"""Labels: what is to be predicted, for whom, when, and what came true; in the MEDS label schema.

A task is one module of `ehrjax.ingest.labels.tasks`, found by its name. `prediction_time` is inclusive, as MEDS
says: the model sees every event with a time up to and including it, and static rows; the outcome lies strictly
after it. Order of reading: `record` (what a task asks of the events), `candidates` (exclusions, follow-up), `in_stays`,
`at_discharges`, `first_events`, `at_visit_ends` and `results` (who is asked when), `tasks`, `making` (streams a dataset
into label files), `reading` (ours and others' label files), `history` (what a model may see).
"""
