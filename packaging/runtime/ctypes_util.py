"""In place of the library's own, which runs compilers to look for libraries."""


def find_library(name):
    """The C library, which is linked in; there is no other."""
    return "libc.so.6" if name == "c" else None
