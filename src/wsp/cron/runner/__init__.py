"""The process that runs commands, and outlives a scheduler that dies; and how a scheduler speaks to it.

Nothing in here imports SQLAlchemy, the settings or the rest of cron: the process stays small.
"""
