"""The neural codec whose codes TRM speaks in: Mimi, by transformers' own classes."""
