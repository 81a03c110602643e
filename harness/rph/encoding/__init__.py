"""Texts to embeddings: sentence encoders, and the cache that every router and process shares.

What encoders share enters here; an encoder itself is a plugin. It never imports `conformance`, `engine` or what is above.
"""
