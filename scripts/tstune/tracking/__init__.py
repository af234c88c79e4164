"""Experiment tracking: one interface, several back ends, any number of them at once."""
