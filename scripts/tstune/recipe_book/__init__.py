"""The recipes as a book: run them, keep what came of them, write the tables."""
