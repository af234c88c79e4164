"""Models and runs side by side: any models on the same windows, several models in one recipe, several runs."""
