"""Letters in either case, one for one, so that places in a text stay what they are."""


def either_case(character: str) -> str:
    """A character and what it is in the other case.

    Only single characters count, as `ß` has no capital of one: and an ASCII letter has ASCII
    letters alone.
    """
    forms = dict.fromkeys((character, character.lower(), character.upper()))
    return "".join(form for form in forms if len(form) == 1)
