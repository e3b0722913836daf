"""From speech, wherever it lies, to padded batches: sources of rows, rows, streams of them, batches, the loader."""
