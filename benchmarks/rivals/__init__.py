"""Ways to relaxed conformers side by side: `python -m benchmarks.rivals`, see __main__.py."""
