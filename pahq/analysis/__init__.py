"""From the cells' files to tables and figures, in three steps that meet in files only.

``evaluate`` reads ``<root>/cells`` and writes ``<root>/analysis/<experiment>/*.parquet``; ``tables`` and
``figures`` read those parquet files and nothing else.
"""
