"""What Duologue measures of itself: `python -m benchmarks.NAME [--quick]`, one module a benchmark."""
