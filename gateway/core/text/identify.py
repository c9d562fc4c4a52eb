"""Which language a text in one of the scripts is written in that many languages share: CLD2, and where it errs.

Here belong the identifiers and what is known of their mistakes: letters, small words and Malay against Indonesian.
Which part of a prompt is asked about, and what its shares are, stands in `language`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gateway.core.text.languagewords import SMALL_WORD_LANGUAGES, SMALL_WORDS

#: (language, share) pairs of a text in one script, best first; "" stands for what is in no language it knows, and
#: nothing at all for an identifier that cannot read.
Identify = Callable[[str], Sequence[tuple[str, float]]]

try:
    import pycld2  # type: ignore[import-untyped]
except ImportError:  # no wheel for Linux on ARM
    pycld2 = None

_CODES = {"iw": "he", "jw": "jv", "in": "id", "nb": "no", "zh-Hant": "zh", "fil": "tl", "mo": "ro", "sh": "hr"}
#: What CLD2 answers for text that is no language: invented ones.
_JOKES = frozenset({"un", "xxx", "tlh", "zzp", "zzb", "zze", "zzh", "xx-Qaai"})


#: Languages that CLD2 finds in short ASCII texts of their large neighbours, or in commands, far more often than in
#: their own: not believed below so many letters.
SELDOM = {
    "co": 40, "rm": 40, "kha": 40, "sco": 40, "gv": 24, "ie": 24, "ia": 24, "vo": 24, "wo": 24, "ve": 24, "aa": 24,
    "ay": 24, "la": 16, "mfe": 40, "br": 24, "rw": 24, "lb": 24, "fo": 24, "mi": 12, "cy": 12, "nr": 24, "ss": 24,
    "lif": 24, "crs": 24, "om": 20, "sa": 20, "hmn": 20, "oc": 20, "su": 17,
}  # fmt: skip

#: Letters that few languages use, with the likeliest first. CLD2 overlooks them in short texts.
_LETTERS: Mapping[str, tuple[str, ...]] = {
    letter: tuple(languages.split())
    for letters, languages in (
        ("ə", "az"), ("łźńś", "pl"), ("ż", "pl mt"), ("őű", "hu"), ("řěů", "cs"), ("ľĺŕ", "sk"), ("șț", "ro"),
        ("ğı", "tr az"), ("å", "sv no nn da fi"), ("ø", "no da nn fo"), ("æ", "da no nn is fo"), ("ðþ", "is fo"),
        ("ķļņģ", "lv"), ("ėųį", "lt"), ("ħġċ", "mt"), ("ŵŷ", "cy"), ("ĉĝĥĵŝŭ", "eo"),
        ("čšž", "cs sk sl hr sr bs lt lv et"),
    )
    for letter in letters
}  # fmt: skip

#: Words that are Malay or Indonesian and never the other, and endings: CLD2 takes either for the other.
_MALAY_WORDS = """
    kerana bahawa boleh ialah sahaja iaitu apabila manakala sekiranya awak wang syarikat kerajaan pelbagai
    tiada selepas kebelakangan peringkat pejabat dahulu semasa bagaimanapun disebabkan mahu nak berjaya menubuhkan
    ditubuhkan telefon polis hospital mengikut perkhidmatan kewangan kenderaan perlawanan isnin khamis jumaat ahad mac
    ogos disember julai menerusi memandangkan tengok cakap tempoh mesyuarat sains bahagian perniagaan pengarah peratus
    bandar percuma maklumat sedap datuk rm korang dah kat jabatan kakitangan pelancong pelancongan filem muzik lagi-lagi
    faham manakah stesen soalan berlaku kemudahan dijangka menjelang sempena pengerusi parti saintis
    kempen universiti cikgu perbezaan berbeza beza sajak kesihatan resipi fikir kedai teksi bas tarikh kilang
    mahkamah peguam setiausaha sukan jurulatih perisian pautan percutian hujung selesa seronok macam encik puan esok
    tahniah ubat kasut seluar bilakah adakah bolehkah hendaklah belanjawan kelajuan emel
"""
_INDONESIAN_WORDS = """
    karena bahwa bisa yaitu uang perusahaan pemerintah sedangkan gak nggak banget kalau merupakan
    berbeda aja saat mobil kantor maupun telepon polisi menurut layanan keuangan kendaraan
    pertandingan senin kamis jumat maret agustus desember juni juli bagian persen provinsi kabupaten kecamatan desa
    gratis informasi resto enak nyaman mengerti udah sih deh dong kok gue lu nih rp berhasil mendirikan kereta cuma
    harga-harga tempatnya pariwisata wisata musik kampanye rumah-sakit butuh makanya kayak gitu
    ternyata justru kalian perbedaan puisi kesehatan resep pikir toko taksi tanggal pabrik pengadilan pengacara
    olahraga pelatih tautan unduh ujung bapak besok sore obat sepatu celana apalagi tsb mengobati peneliti penelitian
"""
_MALAY = frozenset(_MALAY_WORDS.split())
_INDONESIAN = frozenset(_INDONESIAN_WORDS.split())


def _malay_or_indonesian(text: str, code: str, letters: int) -> str:
    words = set(text.lower().split())
    malay = len(words & _MALAY) + sum(word.endswith("iti") for word in words)
    indonesian = len(words & _INDONESIAN) + sum(word.endswith("itas") for word in words)
    if malay != indonesian:
        return "ms" if malay > indonesian else "id"
    return code if letters >= 100 else "id"  # which has several times the speakers


#: Answers of CLD2 that its small words are asked about: all that it gives for Latin script.
_LATIN = (*SMALL_WORD_LANGUAGES, "ms")
#: Which of them are likelier than any other, to begin with.
_LARGE = frozenset({"en", "es", "fr", "de", "it", "pt", "id", "tl", "vi"})
#: What CLD2 answers for the many languages beside them that it does not know, in longer texts too.
_MAGNETS = frozenset({"id", "ms", "tl"})
#: Up to how many letters each answer's small words are asked for; CLD2 takes a few words of Italian for the last two.
_READ_UP_TO = {code: 400 if code in _MAGNETS else 200 for code in _LATIN} | {"co": 40, "rm": 40}


def corrected(code: str, text: str, letters: int, *, sure: bool) -> str:
    """CLD2's answer for a text, where a letter or a word shows it wrong.

    `sure`: the text is prose, and CLD2 takes nearly all of it for this language. Of a text in two languages its words
    say nothing.
    """
    if sure and letters < _READ_UP_TO.get(code, 0):
        code = _by_small_words(text, code)
    if code in ("ms", "id"):
        return _malay_or_indonesian(text, code, letters)
    if code in _DEVANAGARI:
        return _by_devanagari(text, code, letters)
    if letters < 32 and code not in _LARGE and text.istitle() and text.isascii():
        return ""  # names, which are of no language
    if code == "es" and letters < 60 and not _NOT_SPANISH.isdisjoint(text):
        return "ca"
    if code and letters < 60 and not text.isascii():
        for word in text.split():
            if word[0].islower():  # not a name, which may come from anywhere
                for letter in word:
                    users = _LETTERS.get(letter)
                    if users is not None and code not in users:
                        return users[0]
    return code


#: Letters of Catalan that Spanish, for which CLD2 takes it, does not use.
_NOT_SPANISH = frozenset("àèòï")
#: Languages that CLD2 tells apart in Devanagari, and takes short texts in Hindi for.
_DEVANAGARI = frozenset({"hi", "ne", "bh", "mr", "sa"})
_HINDI_WORDS = frozenset(["है", "हैं", "की", "ने", "और", "क्या", "कैसे", "नहीं", "मैं", "यह", "था", "थी", "थे", "लिए", "मुझे", "कुछ"])
#: The dot below ढ़ and ड़, and two endings of plurals.
_HINDI_SPELLING = ("\u093c", "\u094b\u0902", "\u090f\u0901")


def _by_devanagari(text: str, code: str, letters: int) -> str:
    if code == "hi":
        return "mr" if "ळ" in text else code
    hindi = not _HINDI_WORDS.isdisjoint(text.split()) or any(letter in text for letter in _HINDI_SPELLING)
    return "hi" if hindi and letters < 60 and code != "mr" else code


#: Letters beside a to z that a large language writes: others in a text speak against it.
_ALPHABETS: Mapping[str, frozenset[str]] = {
    "en": frozenset(), "id": frozenset(), "tl": frozenset("ñ"), "de": frozenset("äöüß"), "es": frozenset("áéíñóúü"),
    "it": frozenset("àèéìòù"), "pt": frozenset("áâãàçéêíóôõú"), "fr": frozenset("àâæçèéêëîïôœùûü"),
}  # fmt: skip


def _by_small_words(text: str, code: str) -> str:
    """Another language than CLD2's answer, where clearly more small words of a text are that one's."""
    counts: dict[str, int] = {}
    words = text.split()
    for word in {word.lower() for word in words}:
        for user in SMALL_WORDS.get(word, ()):
            counts[user] = counts.get(user, 0) + 1
    if not counts:
        return code
    most = max(counts.values())
    best = next(user for user in _LATIN if counts.get(user) == most)
    margin = 1 if code == "en" and not text.isascii() else 2
    if best in _LARGE and code not in _LARGE:  # CLD2 seldom takes a large language for a small one, but for few words
        margin = 1 if len(text) < 60 and _written_in(best, text, words) else 4
    own = counts.get("id" if code == "ms" else code, 0)
    if best == "en" and not own and len(words) <= 3 and text.isascii():
        return best  # "explain sisu": one word of English, none of the other
    return best if most >= max(own + margin, 2) else code


def _written_in(code: str, text: str, words: Sequence[str]) -> bool:
    """Whether a language writes all letters of a text; those of names, which may come from anywhere, do not count."""
    if text.isascii():
        return True
    if code not in _ALPHABETS:
        return False
    return all(
        word.isascii()
        or (at and not word[0].islower())
        or all(char < "\x80" or char in _ALPHABETS[code] for char in word.lower())
        for at, word in enumerate(words)
    )


def cld2(text: str) -> list[tuple[str, float]]:
    """CLD2's answer: up to three languages, and "" for the share it could not tell."""
    try:
        _, _, found = pycld2.detect(text, isPlainText=True, bestEffort=True)
    except pycld2.error:  # control characters, which it takes for broken UTF-8
        _, _, found = pycld2.detect("".join(filter(str.isprintable, text)), isPlainText=True, bestEffort=True)
    shares = [(_CODES.get(code, code), percent / 100) for _, code, percent, _ in found if code not in _JOKES]
    rest = 1 - sum(share for _, share in shares)
    return [*shares, ("", rest)] if rest > 0.001 else shares


#: Letters by which a language is told from the most usual one of its script, which comes last with no letters.
_TELLING: tuple[tuple[str, str], ...] = (
    ("іїєґ", "uk"), ("ў", "be"), ("ђћџљњј", "sr"), ("қғұәһ", "kk"), ("өү", "mn"), ("ыэ", "ru"), ("ъ", "bg"),
    ("абвгдежзиклмнопрстуфхцчшщюя", "ru"),
    ("ٹڈڑےں", "ur"), ("پچژگ", "fa"), ("ابتثجحخدذرزسشصضطظعغفقكلمنهوي", "ar"),
    ("ळ", "mr"), ("अआइईउऊएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह", "hi"),
)  # fmt: skip


def by_words_and_letters(text: str) -> list[tuple[str, float]]:
    """The identifier for installations without CLD2: by small words, or letters that few languages use.

    It seldom errs and often cannot tell; what it cannot tell stays undetermined.
    """
    lower = text.lower()
    words = lower.split()
    counts: dict[str, int] = {}
    for word in words:
        for user in SMALL_WORDS.get(word, ()):
            counts[user] = counts.get(user, 0) + 1
    most = max(counts.values(), default=0)
    if most >= 2 and most * 5 >= len(words):
        return [(next(user for user in _LATIN if counts.get(user) == most), 0.9), ("", 0.1)]
    letters = set(lower)
    return next(([(code, 0.9), ("", 0.1)] for some, code in _TELLING if not letters.isdisjoint(some)), [])


DEFAULT_IDENTIFY: Identify = cld2 if pycld2 is not None else by_words_and_letters
