import json
import time

import pytest

from gateway.core.reading import translation
from gateway.core.reading.lexicon import Excerpt
from gateway.core.request.wire import parse
from gateway.core.text.longtext import LongText
from gateway.core.text.tokens import Text


def wanted(text: Text) -> frozenset[str] | None:
    return translation.wanted(Excerpt(text))


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("Translate this into Japanese.", "ja"),
        ("Translate the following into French and Japanese: good morning", "fr ja"),
        ("translate to polish: hello", "pl"),
        ("Please render this paragraph in natural Chinese.\n\nThe bridge was closed.", "zh"),
        ("Translate from English to German, keep formatting:\n\nThe bridge was closed.", "de"),
        ("from english to hindi: good night", "hi"),
        ("Polish translation of: the bridge was closed", "pl"),
        ("Give me an English version of this Korean text: 안녕하세요", "en"),
        ('What is the Thai for "good morning"?', "th"),
        ("What's the Spanish word for butterfly?", "es"),
        ('How do you say "the bridge that crosses the river was closed for repairs" in Swahili?', "sw"),
        ("Can you write this in Russian for my colleague: the bridge was closed", "ru"),
        ("I need this email in Dutch:\n\nThe bridge was closed.", "nl"),
        ("Write a poem in Brazilian Portuguese about rain", "pt"),
        ("Answer only in Korean.", "ko"),
        ("The bridge was closed.\n\nTranslate the above into Tagalog, keep the tone formal.", "tl"),
        ("Übersetze den folgenden Text ins Englische: Guten Tag", "en"),
        ("Antworte bitte auf Deutsch.", "de"),
        ("Traduce esto al ingles por favor", "en"),
        ("Traduis en allemand : bonjour", "de"),
        ("Traduci in inglese: ciao", "en"),
        ("Traduza para o inglês: olá", "en"),
        ("Vertaal naar het Engels: goedemorgen", "en"),
        ("Переведи на английский: привет", "en"),
        ("Przetłumacz na angielski: dzień dobry", "en"),
        ("Bunu İngilizceye çevir: merhaba", "en"),
        ("Dịch sang tiếng Anh: xin chào", "en"),
        ("Terjemahkan ke bahasa Inggris: selamat pagi", "en"),
        ("次の文を英語に翻訳してください。", "en"),
        ("日本語で答えてください", "ja"),
        ("请把下面的句子翻译成日语。", "ja"),
        ("다음을 영어로 번역해 주세요", "en"),
        ("इसका अंग्रेजी में अनुवाद करें", "en"),
        ("ترجم إلى الإنجليزية", "en"),
    ],
)
def test_a_language_that_is_asked_for_is_found(text: str, codes: str) -> None:
    assert wanted(text) == frozenset(codes.split())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "What is the capital of the Japanese prefecture of Aichi?",
        "I love Italian food and Polish dumplings.",
        "He was born in German East Africa.",
        "Write an essay about life in Polish villages.",
        "Compare French and English grammar.",
        "Write a function to polish the data",
        "translate this into a Python function",
        "Please translate from Japanese:\nこれは個人的な印象です。",
        "Translate the above text.",
        "I am learning to write in Japanese",
        "Reply to the Danish team",
        "Write a letter to the English teacher about the school trip",
        "Die deutsche Sprache hat viele Wörter.",
        "日本語の文法について教えてください。",
        "The statement was in Latin, apart from one sentence.",
    ],
)
def test_a_language_that_is_merely_talked_about_is_not(text: str) -> None:
    assert wanted(text) is None


def test_only_the_ends_of_a_long_text_are_read() -> None:
    filler = "The bridge was closed for repairs. " * 5_000
    assert wanted(filler + "\n\nTranslate the above into Finnish.") == {"fi"}
    assert wanted(filler + "\n\nTranslate the above into Finnish." + filler) is None
    body = {"model": "auto", "messages": [{"role": "user", "content": filler + "Now translate it all into Finnish."}]}
    long = parse(json.dumps(body).encode()).get("messages")[0]["content"]
    assert isinstance(long, LongText)
    assert wanted(long) == {"fi"}


@pytest.mark.parametrize(
    "text",
    [
        "in French " * 400_000, "how do you say in " * 400_000, "French and " * 400_000, " " * 4_000_000,
        "日本語に" * 1_000_000, "\x00" * 4_000_000, "translate into " * 400_000, "French\n" * 500_000,
    ],
)  # fmt: skip
def test_hostile_text_takes_no_longer_than_any_other(text: str) -> None:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        wanted(text)
        best = min(best, time.perf_counter() - start)
    assert best < 0.02  # about 0.5 ms; reading all of it takes seconds
