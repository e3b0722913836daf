"""Training on the codes of speech: a codec, and TRM, which speaks in them."""
