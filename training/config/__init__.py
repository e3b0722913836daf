"""The sections of a training configuration, and how they are read."""
