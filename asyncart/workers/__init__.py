"""Several processes for one transfer, where one interpreter is the limit.

Small files cost Python per file, and one interpreter runs one thread of Python at a time. A worker is a
process of its own that reads, hashes, sends, receives and writes by itself, with the engine's very own
`Uploader` and `Downloader`; only plans, results and questions to the catalog cross the border. The caller's
event loop is left in peace meanwhile.

Promised: the same versions, the same deduplication and the same errors as without workers; the memory
budget is split, not multiplied; no worker outlives its transfer, or its parent. Where no worker can be
started, and for what a killed one left, the work is done in this process.

`choice` decides how many (plain functions), `process` owns one, `uploading` and `downloading` feed them,
`wire` is what they say to each other, `main` is the worker's side.
"""
