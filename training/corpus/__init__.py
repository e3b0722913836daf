"""Speech as pre-shuffled parquet shards: rendered by free synthesisers, or prepared from any source of training."""
