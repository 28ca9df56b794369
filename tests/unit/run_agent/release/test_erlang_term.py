"""Erlang terms without a VM: what is written is read back, anything else is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from run_agent.release.erlang_term import MAX_DEPTH, Atom, consult, render

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
TERMS = st.recursive(
    st.integers() | TEXT | TEXT.map(Atom),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple),
    max_leaves=20,
)


@given(st.lists(TERMS))
def test_what_is_written_is_read_back(terms):
    assert consult("".join(f"{render(term)}.\n" for term in terms)) == terms


@given(st.text())
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ValueError):
        consult(text)


@given(st.text("[]{},.'\"\\%ax1 \n", max_size=30))
def test_any_punctuation_is_read_or_refused(text):
    with contextlib.suppress(ValueError):
        consult(text)


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("a.", Atom("a")),
        ("aB_1@x .", Atom("aB_1@x")),
        ("'a b'.", Atom("a b")),
        ("üÄ1.", Atom("üÄ1")),
        (r"'it\'s'.", Atom("it's")),
        ("-17.", -17),
        ("1.\n", 1),
        ('"a\\n\\"\\x{e4}\\xe4\\344\\sb\\^A\\d".', 'a\n"äää b\x01\x7f'),
        ('"a" "b"\n  "c".', "abc"),
        ("[].", []),
        ("{}.", ()),
        ('[ {a , 1}%x }]\n, "b" ].', [(Atom("a"), 1), "b"]),
        ('%% coding: utf-8\n{"ü"}. % the end', ("ü",)),
    ],
)
def test_terms(text, term):
    assert consult(text) == [term]


def test_several_terms_and_none():
    assert consult("a. 1.\n%c\nb.") == [Atom("a"), 1, Atom("b")]
    assert consult("% nothing\n") == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a", 1),
        ("a b.", 1),
        ("\n\n{a", 3),
        ("{a,}.", 1),
        ("[a|b].", 1),
        ("{a]\n.", 1),
        ("1.5.", 1),
        ("16#ff.", 1),
        ("<<1>>.", 1),
        ("#{a => 1}.", 1),
        ("Var.", 1),
        ('\n"open', 2),
        ("[a,\n b", 2),
        ("a.b.", 1),
    ],
)
def test_what_is_none_of_ours_is_refused_with_its_line(text, line):
    with pytest.raises(ValueError, match=f"line {line}:"):
        consult(text)


def test_a_character_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="range"):
        consult(r'"\x{110000}".')


def test_a_hostile_depth_is_refused():
    consult("[" * MAX_DEPTH + "]" * MAX_DEPTH + ".")
    with pytest.raises(ValueError, match="deep"):
        consult("[" * 100_000)
