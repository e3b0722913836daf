"""From rows, wherever they lie, to batches of samples: sources, streams, makers of samples, batches, the loader."""
