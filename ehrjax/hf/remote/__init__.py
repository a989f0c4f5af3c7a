"""Modelling files for `trust_remote_code`: models that transformers does not have. They import nothing of ehrjax."""
