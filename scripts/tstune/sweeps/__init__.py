"""Many runs of one recipe: a search space, a study that remembers every trial, a report that names the best."""
