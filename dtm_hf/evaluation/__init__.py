"""Judging speech: words, speakers and sound."""
