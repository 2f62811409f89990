"""Taggers of NLTK and spaCy as `Tagger`s."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from tamis.features.text import Tagger

if TYPE_CHECKING:
    from spacy.language import Language

__all__ = ["nltk_tagger", "spacy_tagger"]


class _TagsPairs(Protocol):
    def tag(self, tokens: list[str], /) -> Iterable[tuple[str, str]]: ...


def nltk_tagger(tagger: _TagsPairs) -> Tagger:
    """A `Tagger` of an NLTK tagger object (anything with ``tag(tokens) -> [(token, tag)]``).

    Args:
        tagger: of NLTK: a list of tokens -> (token, tag) pairs.
    """
    return lambda tokens: [str(tag) for _, tag in tagger.tag(tokens)]


def spacy_tagger(nlp: Language, attribute: str = "pos_") -> Tagger:
    """A `Tagger` of a spaCy pipeline.

    Args:
        nlp: the pipeline.
        attribute: of each token, e.g. ``"pos_"``, ``"tag_"``, ``"ent_type_"``.
    """

    def tag(tokens: list[str], /) -> list[str]:
        from spacy.tokens import Doc

        return [getattr(token, attribute) for token in nlp(Doc(nlp.vocab, words=tokens))]

    return tag
