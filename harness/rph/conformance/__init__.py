"""What a plugin owes, checked on small inputs made here: routers by kind of check, encoders, benchmarks.

What holds for every plugin of a kind enters here, with a message for its author. It never imports `engine` or what is above.
"""
