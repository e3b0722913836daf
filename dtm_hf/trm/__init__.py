"""TRM: speech in the codes of a neural codec, by a small network that refines its answer in cycles."""
