"""Pipelines: text to speech, end to end."""
