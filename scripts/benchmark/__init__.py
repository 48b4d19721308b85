"""What all benchmarks share: processes, rounds, peak memory, model shapes, trainers, command line and JSON record."""
