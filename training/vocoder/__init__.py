"""Training of the vocoder: a small Vocos from recordings, against spectra and then against discriminators."""
