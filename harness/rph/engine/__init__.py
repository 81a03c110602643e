"""The run: names on a command line become cells, cells become trials, trials become results, and a store keeps them.

What happens between a call and its results enters here; what a result is belongs to `results`. It never imports the rooms
above it: `deploy`, `board`, `study`, `cli`.
"""
