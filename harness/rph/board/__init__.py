"""The leaderboard: ranks with their uncertainty, the site, and submissions on their way in.

A board is a function of result files. What judges or shows several results as a ranking enters here; it never imports `study` or `cli`.
"""
