"""Distillation of diffusers' text-to-image pipelines: models, prompts and images, samples, and what is saved."""
