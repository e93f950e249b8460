"""Benchmarks: ``pytest benchmarks/``. The system itself is ``gankern.bench``; README.md says what the numbers mean."""
