"""The toolbox of router authors: what routers share in order to learn. Public: docs/stability.md says what is promised.

`heads` says what a small network is and `stacks` trains many at once, `headrouter` makes a router of a head, `neighbours` and
`clusters` search and group embeddings, `localmeans` averages over neighbours and `costheads` learns costs, `states` turns what was learnt into plain arrays. What two routers need enters here. It
imports the hall alone.
"""
