import pytest

from gateway.core.text import identify
from gateway.core.text.identify import corrected
from gateway.core.text.language import of
from gateway.core.text.languagewords import SMALL_WORD_LANGUAGES, SMALL_WORDS

LLAMA_4 = frozenset(["ar", "en", "fr", "de", "hi", "id", "it", "pt", "es", "tl", "th", "vi"])

pytestmark = pytest.mark.skipif(identify.pycld2 is None, reason="pycld2 has no wheel here")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Ho perso la pazienza.", "it"),
        ("Dove si trova il bagno?", "it"),
        ("Quanto costa questo libro?", "it"),
        ("cuanto cuesta este libro", "es"),
        ("Preciso de ajuda com a minha conta.", "pt"),
        ("Cat costa cartea asta?", "ro"),
        ("Am nevoie de ajutor cu contul meu.", "ro"),
        ("Var ligger stationen?", "sv"),
        ("Missä asema on?", "fi"),
        ("ile kosztuje ta ksiazka", "pl"),
        ("Hi, I'm Taylor.", "en"),
        ("Write a python", "en"),
        ("x squared minus 10", "en"),
        ("Los Angeles to San Francisco", "en"),
        ("What is a de facto standard?", "en"),
        ("per diem rates in Italy", "en"),
        ("qual a capital da Austrália", "pt"),
        ("Ciò è abbastanza normale essendo", "it"),
        ("Ho na le ho fela", "st"),
        ("El meu contenidor docker no arrenca, què faig?", "ca"),
        ("Mwen te kraze bwat Kola a.", "ht"),
        ("Er werden in totaal zeven", "nl"),
        ("Hoekom is die lug blou?", "af"),
    ],
)
def test_a_short_sentence_is_told_by_its_small_words(text: str, code: str) -> None:
    assert of([text]).main == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Kerajaan akan menubuhkan sebuah jawatankuasa kerana aduan itu.", "ms"),
        ("Pemerintah akan membentuk sebuah panitia karena keluhan itu.", "id"),
        ("Fakulti itu mempunyai banyak aktiviti", "ms"),
        ("Fakultas itu punya banyak aktivitas", "id"),
        ("Apakah perbezaan antara saham dan bon?", "ms"),
        ("Tak pernah ia lebih suka kopi daripada teh sore ini", "id"),
    ],
)
def test_malay_is_told_from_indonesian_by_words_and_endings(text: str, code: str) -> None:
    assert of([text]).main == code


def test_a_letter_that_hindi_does_not_use_shows_marathi() -> None:
    assert corrected("hi", "साळसूदपणे वळला आहे", 16, sure=True) == "mr"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("अल्पसंख्यक मामलों के नए मंत्री", "hi"),
        ("बाढ़, सुनामी, भूकम्प, दुर्घटनाएँ", "hi"),
        ("मलाई निवेदन लेख्न मद्दत गर्न सक्नुहुन्छ?", "ne"),
    ],
)
def test_short_hindi_is_told_from_its_neighbours_by_its_endings(text: str, code: str) -> None:
    assert of([text]).main == code


def test_small_words_decide_nothing_in_a_text_of_two_languages() -> None:
    text = "And the man said to the boy that it was for you: je ne sais pas ce que tu veux dire avec cela"
    assert corrected("fr", text, len(text), sure=False) == "fr"


def test_what_is_written_in_character_references_is_read() -> None:
    text = "".join(f"&#x{ord(char):X};" for char in "मानव अधिकारों की सार्वभौम घोषणा")
    assert of([text]).main == "hi"


def test_the_lists_of_small_words_are_well_formed() -> None:
    assert len(set(SMALL_WORD_LANGUAGES)) == len(SMALL_WORD_LANGUAGES)
    assert set(SMALL_WORD_LANGUAGES) >= LLAMA_4 - {"ar", "hi", "th"}
    assert all(word == word.lower() for word in SMALL_WORDS)
