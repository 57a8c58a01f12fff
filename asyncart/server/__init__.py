"""`asyncart server`: the catalog over HTTP for a team, with bytes straight between clients and the bucket.

A leaf: nothing else in asyncart imports it but the command line. Handlers call the same catalog verbs and
the same store as the embedded library does; there is no second data model.
"""
