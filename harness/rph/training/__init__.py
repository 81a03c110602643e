"""The toolbox of router authors: what routers share in order to learn. Public: docs/stability.md says what is promised.

`heads` trains many small networks at once, `headrouter` makes a router of a head, `neighbours` and `clusters` search and
group embeddings, `states` turns what was learnt into plain arrays. What two routers need enters here. It imports the hall alone:
`rph.arrays`, `rph.lazy`, `rph.api`, `rph.errors`.
"""
