"""Which codes of languages there are, and which was meant where somebody wrote something else. Data, and one look-up.

A language that is no code is one no request is ever in, and a condition that asks for it never applies: so such words
are refused. How a language is told stands in `language`, what languages are called in `languagenames`.
"""

from __future__ import annotations

from gateway.core.text.languagenames import OTHERS, UNSPACED

#: ISO 639-1, all that are not withdrawn.
_ISO_639_1 = """
    aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo
    es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka
    kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng
    nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su
    sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""
#: What is told of a text beside: by CLD2, by a script, and by the name of a language; `mis` for one without a name.
_BESIDE = """
    bh ceb chr ckb crs haw hmn kha lif mfe mis mni nqo nso sat sco syr war xx-Bugi xx-Goth yue zgh
"""
CODES = frozenset((_ISO_639_1 + _BESIDE).split())
#: Codes that are in use elsewhere for one that is used here.
_OTHERWISE = {
    "iw": "he", "jw": "jv", "in": "id", "fil": "tl", "mo": "ro", "sh": "hr", "cmn": "zh", "jp": "ja", "cn": "zh",
    "kr": "ko", "gr": "el", "cz": "cs", "dk": "da", "ua": "uk", "vn": "vi", "eng": "en", "deu": "de", "ger": "de",
    "fra": "fr", "fre": "fr", "spa": "es", "ita": "it", "por": "pt", "rus": "ru", "jpn": "ja", "kor": "ko",
    "zho": "zh", "chi": "zh", "ara": "ar", "hin": "hi", "nld": "nl", "pol": "pl", "tur": "tr", "ukr": "uk",
}  # fmt: skip


def valid(word: str, *, of_models: bool = False) -> bool:
    """Is it the code of a language? Lists of models may name any of ISO 639-3, which are not kept here."""
    return word in CODES or (of_models and len(word) == 3 and word.isascii() and word.islower() and word.isalpha())


def meant(word: str) -> str:
    """What would have been right: the last part of an error message.

    >>> meant("German"), meant("pt-BR"), meant("klingon")
    ('did you mean de?', 'did you mean pt?', 'an ISO 639-1 code such as en, de or zh')
    """
    plain = word.strip().casefold()
    head = plain.replace("_", "-").partition("-")[0]
    for name in (plain, head, *plain.split()):
        code = OTHERS.get(name) or UNSPACED.get(name) or _OTHERWISE.get(name) or (name if name in CODES else None)
        if code is not None:
            return f"did you mean {code}?"
    return "an ISO 639-1 code such as en, de or zh"
