"""Training on speech: heads, backbones and students of F5-TTS."""
