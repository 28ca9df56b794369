"""Slugs: from a URL to a whole tree on the volume, and which of the trees is booted.

Owns the folder `deploys` and the link `current` beside it (`tree`, `staging`, `record`), and the
worker process that downloads, checks and unpacks (`worker`, `pipeline`, `archive`, `extract`,
`decompress`, `readahead`). The resident agent imports `fetch` and `tree` only: what the others
need (requests, isal, zstandard) lives in the worker, and goes with it. Must not know what is in a
slug: that is `release`.
"""
