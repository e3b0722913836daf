"""Training objectives: each turns a batch of mels into a loss on one trained module."""
