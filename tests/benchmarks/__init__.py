"""Every promise about speed and size, measured beside what it is compared with: `python -m tests.benchmarks --help`."""
