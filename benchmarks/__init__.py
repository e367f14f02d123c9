"""What gradlab costs: `python -m benchmarks` measures it beside other tools; other files print more of one topic."""
