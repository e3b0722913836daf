"""From audio wherever it lies to padded batches: sources of rows, rows to utterances, utterances to batches, the loader."""
