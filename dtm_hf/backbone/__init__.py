"""The frozen F5-TTS backbone."""
