"""A trained router put to use: exported, loaded, asked and served.

What a user does with one router after the benchmark enters here. It never imports `board`, `study` or `cli`.
"""
