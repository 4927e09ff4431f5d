"""Programs that measure what the server promises, each beside a baseline of the same run."""
