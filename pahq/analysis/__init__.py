"""From the cells' files to tables and figures, in steps that meet in files only.

``evaluate`` reads ``<root>/cells`` and writes ``<root>/analysis/<experiment>/*.parquet``; ``faithfulness``, the one
step that runs models, writes ``faithfulness/<task>.parquet`` there; ``tables`` and ``figures`` read those parquet files
and nothing else.
"""
