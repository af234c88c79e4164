"""Models and runs side by side: any models on the same windows, a run's scoreboard once more, several runs."""
