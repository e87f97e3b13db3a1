"""Data sets: the conversion of sources to Parquet shards and a DataSpec. It does not import Ray.

``prepare`` converts a source to a folder, and ``shards`` reads it. A row's split depends only on its identity
(``rows.split_indices``). ``MANIFEST.sha256`` lists every file of the folder, and every shard is checked before use.
"""
