"""Code by other models: edits that are sketched, files and snippets that fit a question.

| module | owns |
|---|---|
| `codegen` | edits by an apply model, and the ranking of files by another |
| `provider` | what such a model offers |
| `documents` | which files are sent to it, and which never are |
| `snippets`, `bm25` | ranking without any model, on this machine |
"""
