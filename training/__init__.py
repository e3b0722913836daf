"""Training of flow heads and backbones, and the corpora they train on."""
