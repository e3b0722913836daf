"""Corpus builder: sentences from a generator, spoken by free synthesisers, stored as pre-shuffled parquet shards."""
