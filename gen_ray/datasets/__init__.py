"""Sources -> Parquet shards and a DataSpec; knows no ray.

``prepare`` turns a source into a folder, ``shards`` reads it back. A row's split is a function of its identity alone
(``rows.assign``), every file of the folder stands in ``MANIFEST.sha256``, and every shard is checked before it is used.
"""
