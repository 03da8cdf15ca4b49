"""Finding files by name, by some characters of their path, and by content.

| module | what it owns |
|---|---|
| `searches` | where searches run, how long they may take, and as whom |
| `find` | names |
| `fuzzy`, `scoring`, `letters` | characters of a path in order; how well they fit; either case |
| `grep`, `lines`, `matching` | content of files; its lines; which of them match |
| `prefilter` | a quick "no" for most files and paths |
| `listings` | directories that are read many at once, ahead of a walk |
| `_native` | the part of both that is in C, which may lack |
| `helpers` | threads that do so on other cores |
| `worker` | the process that applies regular expressions, which may never end |
| `until` | when a search ends early, and what it then has |

All of them go through `core/walk.py`. Nothing is imported here: the worker is a process of its own,
which has to start fast.
"""
