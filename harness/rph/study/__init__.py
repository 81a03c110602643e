"""The paper's tables and figures, and ours, computed from result files: one file per question that is asked of them.

What asks about routers in general enters here; what ranks them belongs to `board`. It trains nothing and never imports `cli`.
"""
