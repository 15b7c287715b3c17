"""A seeded, randomised run that tries to break every promise: `python -m tests.chaos --help`."""
