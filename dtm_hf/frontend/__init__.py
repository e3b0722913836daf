"""Text and audio front end of F5-TTS."""
