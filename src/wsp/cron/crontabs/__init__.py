"""Crontabs and JSON, in and out."""
