"""Where sources come from: Debian's archive and the package index, by their ordinary clients.

Nothing here names a host: apt and pip use what this machine is set up with.
"""

import hashlib
import os
import re
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from cache import BuildError, Cache, FetchError, fetch, run, say
from target import HERE, ROOT

PINS = tomllib.loads((HERE / "sources.toml").read_text())
LOCK = ROOT / "requirements.lock"


@dataclass(frozen=True)
class Source:
    """Unpacked sources.

    Args:
        name: of the package.
        version: of what was unpacked.
        tree: the directory that holds it.
    """

    name: str
    version: str
    tree: Path

    @property
    def patches(self) -> list[Path]:
        """What we change in it, for whoever builds it to apply: each says what it is for."""
        return sorted((HERE / "patches" / self.name).glob("*.patch"))


def fetch_debian(cache: Cache) -> dict[str, Source]:
    """Debian's source packages of sources.toml by name, unpacked and patched.

    Raises:
        FetchError: the archive cannot be reached, or has none of an upstream release.
        BuildError: an upstream tar file is not the pinned one.
    """
    pins = PINS["debian"]

    def make(directory: Path) -> None:
        apt = _Apt(directory)
        for name, pin in pins.items():
            version = apt.fetch(name, pin["version"])
            if version != pin["version"]:
                say(f"WARNING: {name} {version} instead of {pin['version']}: renew sources.toml")
            _check_upstream(directory, name, pin)
            (directory / f"{name}.version").write_text(version)

    pinned = [(name, pin["version"], pin["sha256"]) for name, pin in pins.items()]
    made = cache.step("sources", pinned, make)
    return {
        name: Source(name, (made / f"{name}.version").read_text(), made / name) for name in pins
    }


def _check_upstream(directory: Path, name: str, pin: dict[str, str]) -> None:
    (archive,) = set(directory.glob(f"{name}_*.orig.tar.*")) - set(directory.glob("*.asc"))
    if (found := hashlib.sha256(archive.read_bytes()).hexdigest()) != pin["sha256"]:
        raise BuildError(f"{archive.name} has SHA-256 {found}, sources.toml says {pin['sha256']}")


def _upstream(version: str) -> str:
    """`3.0.20` of `3.0.20-1~deb12u2`."""
    return version.rpartition("-")[0]


class _Apt:
    """apt with lists of its own: neither the system's sources nor its rights are needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._configuration = directory / "apt.conf"
        lists, archives = directory / "apt/lists/partial", directory / "apt/cache/archives/partial"
        for one in (lists, archives):
            one.mkdir(parents=True)
        self._configuration.write_text(
            f'Dir::Etc::SourceList "{directory}/sources.list";\n'
            'Dir::Etc::SourceParts "/dev/null";\n'
            f'Dir::State::Lists "{lists.parent}";\n'
            f'Dir::Cache "{directory}/apt/cache";\n'
            'APT::Sandbox::User "";\nAcquire::Retries "3";\n'
        )
        (directory / "sources.list").write_text(_source_lines(directory))
        told = self._run("apt-get", "update", "-q")
        if not any(lists.parent.glob("*Sources*")):  # which apt does not call a failure
            raise FetchError(f"Debian's archive cannot be reached:\n{told}")

    def _run(self, *command: str) -> str:
        return fetch(*command, cwd=self._directory, env={"APT_CONFIG": str(self._configuration)})

    def fetch(self, name: str, pinned: str) -> str:
        """Unpack the pinned version, or the newest of the same release; returns which."""
        known = re.findall(r"^Version: (.*)$", self._run("apt-cache", "showsrc", name), re.M)
        same = {one for one in known if _upstream(one) == _upstream(pinned)}
        for version in (pinned, *sorted(same - {pinned}, key=_numbers, reverse=True)):
            if self._unpack(name, version):
                return version
            say(f"{name} {version} is not to be had")
        raise FetchError(f"no {name} of {_upstream(pinned)} in Debian's archive")

    def _unpack(self, name: str, version: str) -> bool:
        """Download, verify, unpack and patch; False where a file of it is not to be had."""
        try:
            self._run("apt-get", "source", "-q", "--download-only", f"{name}={version}")
        except FetchError as exc:
            say(str(exc).splitlines()[-1])
            return False
        epochless = version.partition(":")[2] or version
        (description,) = self._directory.glob(f"{name}_{epochless}.dsc")
        self._run("dpkg-source", "--no-check", "--extract", description.name, name)
        return True


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _source_lines(directory: Path) -> str:
    """The machine's own archives, for sources."""
    wanted = "$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = run("apt-get", "indextargets", "--format", wanted, cwd=directory).splitlines()
    rows = {line.split(None, 1)[1] for line in targets if line.startswith("Packages ")}
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    # apt asks the first archive that knows a version; some mirrors lack older files of the last
    debian = sorted((row for row in rows if "debian" in row), key=lambda row: "security" in row)
    return "".join(f"deb-src [signed-by={keys}] {row}\n" for row in debian)


def locked() -> dict[str, str]:
    """Names and versions of requirements.lock: all that the daemon needs at run time."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK.read_text(), re.M))


def _requirement(name: str) -> str:
    """The lines of one package in the lock, with its hashes."""
    found = re.search(rf"^{re.escape(name)}==.*(?:\n    --hash.*)+", LOCK.read_text(), re.M)
    if found is None:
        raise BuildError(f"{name} is not in {LOCK.name}")
    return found[0] + "\n"


def fetch_sdist(cache: Cache, tools: Path, name: str) -> Source:
    """The sources of a Python package: the version and the hashes of requirements.lock.

    Raises:
        FetchError: pip cannot get it.
    """
    requirement = _requirement(name)

    def make(directory: Path) -> None:
        wanted = directory / "requirement.txt"
        wanted.write_text(requirement)
        _pip(tools, directory, "download", "--no-binary", ":all:", "--no-build-isolation",
             "--require-hashes", "-r", wanted, "-d", directory)  # fmt: skip
        (archive,) = directory.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")
        archive.with_suffix("").with_suffix("").rename(directory / "source")

    made = cache.step(f"sdist-{name}", [requirement], make)
    return Source(name, locked()[name], made / "source")


def fetch_python_packages(cache: Cache, tools: Path, python: str) -> Path:
    """A directory with the Python files of every locked package, as for a given Python."""

    def make(directory: Path) -> None:
        _pip(tools, directory, "install", "--only-binary", ":all:", "--require-hashes", "-r", LOCK,
             "--target", directory / "site", "--no-compile", "--python-version", python,
             "--implementation", "cp", "--platform", "musllinux_1_2_x86_64",
             "--platform", "musllinux_1_1_x86_64")  # fmt: skip

    return cache.step("packages", [LOCK, python], make) / "site"


def _pip(tools: Path, directory: Path, *arguments: object) -> None:
    env = {
        "PATH": f"{tools / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(HERE / "metadata"),
    }
    fetch(tools / "bin/python", "-m", "pip", "--quiet", arguments[0], "--no-deps", *arguments[1:],
          cwd=directory, env=env)  # fmt: skip
