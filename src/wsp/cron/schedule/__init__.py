"""Expressions and time: when a job is due, in words and in instants. Knows neither jobs nor a database."""
