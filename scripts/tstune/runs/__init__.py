"""A run from begin to end: its life, its folder, its report."""
