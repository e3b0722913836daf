"""Training what writes mels frame after frame: SpeechT5."""
