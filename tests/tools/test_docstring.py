from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.tools.docstring import parse_docstring

GOOGLE = """Do it.

    At once, and
    on two lines.

    Args:
        first (int, optional): The first,
            on two lines.
        second: The second: with a colon.
        *rest: The rest.

    Returns:
        nothing: of note

    Examples:
        >>> do(1)
    """
NUMPY = """Do it.

    Parameters
    ----------
    first : int, optional
        The first,
        on two lines.
    second, third
        Both.

    Returns
    -------
    int
        A number.
    """
SPHINX = """Do it.

    :param first: The first,
        on two lines.
    :param int second: The second.
    :type first: int
    :returns: nothing
    """


@pytest.mark.parametrize(
    ("text", "description", "parameters"),
    [
        (
            GOOGLE,
            "Do it.\n\nAt once, and on two lines.",
            {"first": "The first, on two lines.", "second": "The second: with a colon.", "rest": "The rest."},
        ),
        (NUMPY, "Do it.", {"first": "The first, on two lines.", "second": "Both.", "third": "Both."}),
        (SPHINX, "Do it.", {"first": "The first, on two lines.", "second": "The second."}),
        (None, "", {}),
        ("", "", {}),
        ("Only this: nothing else.", "Only this: nothing else.", {}),
        ("Do it.\n\nArgs:\n", "Do it.", {}),
        ("Do it.\n\nNote: this is prose.", "Do it.\n\nNote: this is prose.", {}),
    ],
)
def test_layouts(text: str | None, description: str, parameters: dict[str, str]) -> None:
    assert parse_docstring(text) == (description, parameters)


_LINE = st.sampled_from(
    ["Args:", "    x: y", "        more", "Parameters", "----", ":param x: y", "", "text", "x : int"]
)


@given(st.lists(_LINE | st.text(max_size=12), max_size=14).map("\n".join))
def test_any_text_is_read(text: str) -> None:
    found = parse_docstring(text)
    assert all(isinstance(part, str) for part in (found.description, *found.parameters, *found.parameters.values()))
