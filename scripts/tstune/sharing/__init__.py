"""A run as a Hugging Face model folder: weights in the family's own format, a model card, and no data."""
