"""Ports: the networks of a pipeline as graphs of fast runtimes, exported, mounted and checked against their source."""
