"""F5-TTS's pruned time grids, as numbers alone: what names a sampler is checked against them without torch."""

# F5-TTS's empirically pruned step sampling: indices on a grid of 1/32 (f5_tts/model/utils.py, `get_epss_timesteps`).
EPSS_INDICES = {
    5: (0, 2, 4, 8, 16, 32),
    6: (0, 2, 4, 6, 8, 16, 32),
    7: (0, 2, 4, 6, 8, 16, 24, 32),
    10: (0, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32),
    12: (0, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32),
    16: (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32),
}
