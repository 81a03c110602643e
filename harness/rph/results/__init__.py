"""What is reported of a finished cell and of several together: metrics, the record, its files, and their computation again.

A number that stands in a result or compares results enters here, pure: from arrays and records to records. It never imports
`training`, `encoding`, `engine` or what is above.
"""
