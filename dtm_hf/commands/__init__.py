"""The `dtm-hf` command line."""
