"""L0: what every other layer stands on. Modules here import nothing else of ehrjax but one another."""
