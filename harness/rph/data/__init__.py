"""Benchmarks as data: the table format, what every table must be, imports, published releases and the hub they come from.

What reads or writes queries, labels and costs enters here; a benchmark itself is a plugin. It imports the hall alone.
"""
