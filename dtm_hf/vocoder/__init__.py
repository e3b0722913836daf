"""Vocoders: from a log-mel spectrogram to a waveform."""
