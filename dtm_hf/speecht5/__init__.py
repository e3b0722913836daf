"""SpeechT5 around transformers' own networks: the reference by component, a step with a cache, the loop over it."""
