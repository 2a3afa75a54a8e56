"""The one exception that users meet."""


class PahqError(ValueError):
    """Bad input, told in one sentence: what was wrong, what was expected, the known names."""


def unknown(kind: str, name: object, known: object) -> PahqError:
    """The error for a name that no table knows; ``known`` is any iterable of names."""
    names = ", ".join(sorted(str(item) for item in known))  # type: ignore[attr-defined]
    return PahqError(f"unknown {kind} {str(name)!r}; known: {names}")
