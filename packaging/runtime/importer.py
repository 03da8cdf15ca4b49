"""Imports out of the executable: there is no other place that code comes from.

`_bundle` (main.c) holds what packaging/bundle.py has put in: the code of modules, and files such as
openapi.yml. Nothing on disk can be imported into the daemon, whatever an image has in its
directories or in PYTHONPATH. This module is frozen; it runs before anything else can be imported.
"""

import _imp
import sys
from _frozen_importlib import BuiltinImporter, FrozenImporter, ModuleSpec

import _bundle

ORIGIN = "/<sandbox-api>/"  # absolute: a path below the working directory could be of a file
_NESTED = frozenset(name for name in sys.builtin_module_names if "." in name)


class BundleImporter:
    """Modules whose code is in the executable."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        is_package = _bundle.find(name)
        if is_package is None:
            return None
        spec = ModuleSpec(name, BundleImporter, origin=_file(name, is_package))
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [ORIGIN + name.replace(".", "/")]
        return spec

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        exec(_bundle.code(module.__spec__.name), module.__dict__)

    @staticmethod
    def get_code(name):
        return _bundle.code(name)

    @staticmethod
    def get_source(name):
        return None

    @staticmethod
    def is_package(name):
        return bool(_bundle.find(name))

    @staticmethod
    def get_resource_reader(name):
        return PackageFiles(name.replace(".", "/"))


class NestedBuiltinImporter:
    """Compiled modules inside of packages, which the interpreter's own importer leaves alone."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in _NESTED:
            return None
        return ModuleSpec(name, NestedBuiltinImporter, origin="built-in")

    @staticmethod
    def create_module(spec):
        return _imp.create_builtin(spec)

    @staticmethod
    def exec_module(module):
        _imp.exec_builtin(module)


class PackageFiles:
    """A file or directory of a package: what of `importlib.resources` makes sense here.

    Args:
        path: from the root of the bundle.
    """

    def __init__(self, path):
        self._path = path

    @property
    def name(self):
        return self._path.rpartition("/")[2]

    def files(self):
        return self

    def joinpath(self, *parts):
        return PackageFiles("/".join((self._path, *parts)))

    __truediv__ = joinpath

    def is_file(self):
        return _bundle.find(self._path) is not None

    def read_bytes(self):
        return _bundle.data(self._path)

    def read_text(self, encoding="utf-8"):
        return self.read_bytes().decode(encoding)


def _file(name, is_package):
    return ORIGIN + name.replace(".", "/") + ("/__init__.py" if is_package else ".py")


sys.meta_path[:] = [BuiltinImporter, BundleImporter, NestedBuiltinImporter, FrozenImporter]
sys.path_hooks.clear()
sys.path.clear()
