"""Which languages a prompt asks to be answered or translated into: "translate this into Japanese", "auf Deutsch".

Here belong the turns of phrase; what languages are called stands in `languagenames`. A prompt is read at its ends only,
word by word and each word once, so no text can take long. A language that is merely talked about ("the Japanese
economy", "grammar in Latin") is none that is wanted: without a verb that asks for it, a name says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.core.reading.lexicon import Excerpt
from gateway.core.text.languagenames import ENGLISH, OTHERS, UNSPACED


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_TRANSLATE = _set("translate translated translating translation translations render rendered localize localise")
#: What may ask for a language in other words, if the name ends its clause: "write this in Chinese for my colleague".
_SAY = _set("""
    say write written answer answers respond reply replies response responses speak talk explain explained describe
    summarize summarise summary tell output draft compose put express provide need want email letter poem story essay
    message rewrite rephrase convert generate give continue read mean means called sentence phrase word version only
""")
_BEFORE = _set("to into in")
#: Kinds of a language, which stand between the preposition and its name.
_KINDS = _set("""
    brazilian european mexican american british canadian latin-american simplified traditional modern standard natural
    fluent formal informal colloquial everyday plain simple proper correct good perfect idiomatic polite native swiss
    austrian haitian scottish the language
""")
#: After a name that ends its clause.
_AFTER = _set("""
    for and or only please with using so that so instead about on by to not but then if as when language text words
    while keeping keep of from is
""")
_NOUNS = _set("translation translations version rendering equivalent subtitles")
_ASKING = _set("give provide need want write make create a an me us the produce show add send please")
_WORDS_FOR = _set("word words phrase term name expression")

_TURN = _set("convert change switch turn put rewrite rephrase back")
_LEARN = _set("learn learning study studying teach class course fluent speakers exam")
#: After "tiếng", as these are words of every day.
_VIETNAMESE = {"anh": "en", "pháp": "fr", "nhật": "ja", "đức": "de", "trung": "zh", "hàn": "ko", "nga": "ru"}
_NAMES = frozenset(OTHERS)
#: Verbs that ask for a translation or an answer, and what stands before the name, in other languages than English.
_OTHER_VERBS = _set("""
    übersetze übersetzen übersetz übersetzt übersetzung antworte antworten antwort schreibe schreib verfasse
    traduis traduire traduisez traduction réponds répondez répondre écris écrivez rédige
    traduce traducir traduzca traducción tradúceme tradúcelo responde responda contesta escribe escriba redacta
    traduci tradurre traduca traduzione rispondi risponda scrivi scriva
    traduza traduzir tradução traduz responda escreva vertaal vertalen vertaling antwoord schrijf
    przetłumacz tłumaczenie odpowiedz napisz переведи переведите перевести перевод ответь ответьте отвечай напиши
    напишите çevir çevirin tercüme yaz yanıtla terjemahkan jawab tulis dịch översätt översättning svara skriv
    přelož fordítsd fordítsa
""")
_OTHER_STEMS = ("ترجم", "अनुवाद")
_OTHER_BEFORE = _set("auf ins in en al à a au para o ao per naar het na на til till på do język bahasa إلى الى بال")
#: After and before a name that is written without spaces: what makes it the language wanted, and what is done in it.
_UNSPACED_AFTER = ("に", "へ", "で", "로")
_UNSPACED_BEFORE = ("成", "为", "為", "到", "用", "译", "譯")
_UNSPACED_VERBS = (
    "訳", "翻", "译", "譯", "번역", "答", "書", "写", "寫", "教", "返", "説明", "要約", "まとめ", "解释", "解釋",
    "总结", "說", "说", "대답", "답", "작성", "써", "설명", "요약",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Word:
    text: str  # lower case, without punctuation
    ends_clause: bool  # punctuation follows, or nothing
    ends_sentence: bool


_STRIP = "\"'`.,;:!?()[]{}<>*_~«»“”‘’„…¿¡、。，；：！？（）「」-–—#&|/\\"


def wanted(excerpt: Excerpt) -> frozenset[str] | None:
    """Codes of the languages that a prompt asks for; None where it asks for none in particular. HOT.

    >>> sorted(wanted(Excerpt("Translate the following into French and Japanese: good morning")))
    ['fr', 'ja']
    >>> wanted(Excerpt("What is the capital of the Japanese prefecture of Aichi?")) is None
    True
    """
    raw = excerpt.raw
    plain = raw.isascii()
    found: frozenset[str] = frozenset()
    if not _NAMES.isdisjoint(excerpt.words) or not (plain or _OTHER_VERBS.isdisjoint(excerpt.words)):
        words = _words(raw)
        found = frozenset(_in_english(words)) or frozenset(_in_others(words))
    if not (found or plain) and max(raw) >= "\u3040":
        found = frozenset(_unspaced(raw))
    return found or None


def _words(raw: str) -> list[_Word]:
    found = []
    for line in raw.lower().replace("i\u0307", "i").splitlines():  # as İ is lowered
        parts = line.split()
        for number, part in enumerate(parts):
            bare = part.strip(_STRIP)
            if bare:
                last = number == len(parts) - 1
                found.append(_Word(bare, last or part[-1] != bare[-1], last or part[-1] in ".?!"))
    return found


def _in_english(words: Sequence[_Word]) -> Iterator[str]:
    at = 0
    while at < len(words):
        if words[at].text not in ENGLISH:
            at += 1
            continue
        last = _last_of_row(words, at)
        if _is_asked_for(words, at, last):
            yield from (ENGLISH[word.text] for word in words[at : last + 1] if word.text in ENGLISH)
        at = last + 1


def _last_of_row(words: Sequence[_Word], at: int) -> int:
    """The last name of "French, German and Japanese"."""
    while True:
        following = at + 1
        if following < len(words) and words[following].text in ("and", "or"):
            following += 1
        if following >= len(words) or words[following].text not in ENGLISH:
            return at
        at = following


def _is_asked_for(words: Sequence[_Word], first: int, last: int) -> bool:
    before = first - 1
    while before >= 0 and words[before].text in _KINDS:
        before -= 1
    previous = words[before].text if before >= 0 else ""
    following = [word.text for word in words[last + 1 : last + 3]] + ["", ""]
    if following[0] in _NOUNS and not words[last].ends_clause:  # "Polish translation of", "give me an English version"
        return previous in _ASKING or before < 0
    if following[0] == "for" or (following[0] in _WORDS_FOR and following[1] == "for"):  # "what is the Thai for"
        named = first > 1 and words[first - 1].text == "the" and words[first - 2].text in ("is", "what's", "whats")
        if named:
            return True
    if previous not in _BEFORE:
        return False
    near = _near(words, before)
    ends_clause = words[last].ends_clause or following[0] in _AFTER or last == len(words) - 1
    if previous != "in":
        if before > 1 and words[before - 1].text in ENGLISH and words[before - 2].text == "from":
            return True
        far = near if not ends_clause else {word.text for word in words[:before]}
        return not _TRANSLATE.isdisjoint(far) or (ends_clause and not _TURN.isdisjoint(near))
    if not ends_clause or not _LEARN.isdisjoint(near):
        return False
    return not (_SAY | _TRANSLATE).isdisjoint(near) or _asks_how_to_say(words[:before])


def _near(words: Sequence[_Word], before: int) -> set[str]:
    """The words of the same sentence, at most twelve."""
    start = before
    while start > max(0, before - 12) and not words[start - 1].ends_sentence:
        start -= 1
    return {word.text for word in words[start:before]}


def _asks_how_to_say(words: Sequence[_Word]) -> bool:
    """Whether "how do you say" stands before, however long what is to be said."""
    texts = [word.text for word in words]
    return any(text == "say" and "how" in texts[max(0, at - 3) : at] for at, text in enumerate(texts))


def _in_others(words: Sequence[_Word]) -> Iterator[str]:
    texts = [word.text for word in words]
    if _OTHER_VERBS.isdisjoint(texts) and not any(text.startswith(_OTHER_STEMS) for text in texts):
        return
    for before, text, after in zip(["", *texts], texts, [*texts[1:], ""], strict=False):
        if before == "tiếng" and text in _VIETNAMESE:
            yield _VIETNAMESE[text]
            continue
        bare = text.removesuffix("ye").removesuffix("ya")  # Turkish says "into" by an ending, as Hungarian does
        code = OTHERS.get(text) or OTHERS.get(bare)
        if code is not None and (before in _OTHER_BEFORE or after == "में" or bare != text or text.endswith("ra")):
            yield code


def _unspaced(raw: str) -> Iterator[str]:
    for name, code in UNSPACED.items():
        at = raw.find(name)
        if at < 0:
            continue
        end = at + len(name)
        if raw[end : end + 1] in _UNSPACED_AFTER:
            around = raw[end : end + 14]
        elif raw[max(at - 1, 0) : at] in _UNSPACED_BEFORE:
            around = raw[max(at - 24, 0) : end + 8]
        else:
            continue
        if any(verb in around for verb in _UNSPACED_VERBS):
            yield code
