"""What tests and smoke runs share: tiny series, tiny random weights of every family, tiny files of every source."""
