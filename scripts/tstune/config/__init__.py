"""One validated `RunConfig`, however it was written down."""
