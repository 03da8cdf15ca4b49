"""The environment that children get: exactly design.md section 7, nothing added or changed."""

from collections.abc import Mapping

from sandbox_api.core.identity import Identity


class Environment:
    """The one owner of what children inherit.

    Args:
        launch: the daemon's launch environment, without the token.
        extra: what `.env` and the env file add; never overrides `launch`.
    """

    def __init__(self, launch: Mapping[str, str], extra: Mapping[str, str] | None = None) -> None:
        self._variables: dict[str, str] = {**(extra or {}), **launch}

    def get(self, name: str, default: str = "") -> str:
        """One variable's value, or `default` where it is unset."""
        return self._variables.get(name, default)

    def shell(self) -> tuple[str, list[str]]:
        """The program that takes command lines, and its arguments before one (system.md 15)."""
        return self.get("SHELL") or "sh", self.get("SHELL_ARGS").split() or ["-c"]

    def child(self, request: Mapping[str, str], identity: Identity | None) -> dict[str, str]:
        """The whole environment of one child.

        Args:
            request: the request's own `env`, which overrides what is inherited.
            identity: the workload user; its HOME, USER and LOGNAME override everything.
        """
        merged = {**self._variables, **request}
        if identity is not None:
            merged.update(HOME=identity.home, USER=identity.name, LOGNAME=identity.name)
        return merged
