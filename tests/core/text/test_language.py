import json
import time
from itertools import combinations, product

import pytest

from gateway.core.request.wire import parse
from gateway.core.text import identify, language
from gateway.core.text.language import Language, clean, of, scripts, windows
from gateway.core.text.longtext import LongText

LLAMA_4 = frozenset(["ar", "en", "fr", "de", "hi", "id", "it", "pt", "es", "tl", "th", "vi"])
LLAMA_3 = frozenset(["en", "de", "fr", "it", "pt", "hi", "es", "th"])

pytestmark = pytest.mark.skipif(identify.pycld2 is None, reason="pycld2 has no wheel here")


def outside(text: str, official: frozenset[str] = LLAMA_4) -> bool | None:
    return of([text]).outside(official)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Explain how a heat pump works in winter.", "en"),
        ("Erkläre mir bitte, wie eine Wärmepumpe im Winter funktioniert.", "de"),
        ("今日の会議の議事録を三行でまとめてください。", "ja"),
        ("请用三句话总结这份合同的主要内容。", "zh"),
        ("오늘 회의 내용을 요약해 주세요.", "ko"),
        ("Объясни, как работает тепловой насос зимой.", "ru"),
        ("Explícame cómo funciona una bomba de calor en invierno.", "es"),
        ("यह अनुबंध किस बारे में है, संक्षेप में बताइए।", "hi"),
        ("สรุปการประชุมวันนี้ให้หน่อย", "th"),
        ("اشرح لي كيف تعمل المضخة الحرارية في الشتاء", "ar"),
        ("Jelaskan bagaimana cara kerja pompa panas karena saya tidak mengerti.", "id"),
        ("Ανάλυσε αυτό το συμβόλαιο για μένα.", "el"),
        ("温迪每天给她的每只鸡喂 3 杯饲料。上午 15 杯，下午 25 杯。", "zh"),
        ("テリーは1日に2つヨーグルトを食べます。30日分のヨーグルトにいくら使いますか？", "ja"),
    ],
)
def test_a_prompt_is_in_the_language_it_is_written_in(text: str, code: str) -> None:
    assert of([text]).main == code


@pytest.mark.parametrize(
    "text",
    [
        "Write a haiku about autumn rain in the mountains.",
        "def f(x: int) -> int:\n    return x * 2\n\nprint(f(3))\n",
        '{"name": "Søren", "city": "København", "tags": ["æble", "øl"]}',
        'Traceback (most recent call last):\n  File "a.py", line 3, in <module>\nValueError: math domain error',
        "import java.io.*;\nimport java.util.*;\n\nclass Replace {\n    public static int solve(int n) {\n",
        "https://example.com/artikel/die-groesste-stadt?lang=de",
        "git rebase -i HEAD~3",
        "kubectl get pods -A",
        "$$\\int_0^1 x^2 dx = \\frac{1}{3}$$",
        "¯\\_(ツ)_/¯",
        "🎉🎉🎉 nice work!",
        "hi",
        "ok",
        "12345 67890",
        "",
        "   \n\n",
        "Tell me about the city of Łódź please.",
        "Who was Søren Kierkegaard and what did he write?",
        "Meeting with Søren Kierkegaard fans in Aarhus",
        "Juventus Napoli Lazio Milan Roma",
        "Compare their careers in a table with one row for each player.\n\nAnna Kowalska, Jorge Ruiz Zafón",
        "namaste meaning",
        "Explain sisu",
        "[{'vorname': 'Jan', 'nachname': 'de Vries', 'straat': 'Dorpsstraat'}]",
        '["rouge","vert","bleu"]',
        "(defun factorial (n)\n  (if (<= n 1)\n      1\n      (* n (factorial (- n 1)))))",
    ],
)
def test_what_is_english_or_no_language_is_never_called_foreign(text: str) -> None:
    assert outside(text, frozenset({"en"})) is not True


@pytest.mark.parametrize(
    "text",
    [
        "Erkläre diesen Code:\n```python\ndef f(x):\n    return x * 2\n```",
        "Schreibe bitte Tests dafür:\ndef f(x):\n    if x == 3:\n        return None\n    return x * 2\n",
        "Summarise this in one line:\n今日の会議では予算について話し合いました。来週もう一度集まります。",
        "この文書の要点は何ですか？\n\n" + "The committee met on Tuesday and discussed the budget at length. " * 40,
        "The poem begins 'Здравствуй, племя младое, незнакомое' and so on; what does it mean?",
    ],
)
def test_a_foreign_part_is_seen_beside_code_and_english(text: str) -> None:
    assert outside(text, frozenset({"en"})) is True


def test_the_last_turn_counts_unless_it_says_too_little() -> None:
    german = "Erkläre mir bitte, wie eine Wärmepumpe im Winter funktioniert."
    assert of([german, "Please explain how that works in summer."]).main == "en"
    assert of([german, "ok"]).main == "de"


def test_official_lists_are_three_valued() -> None:
    indonesian = of(["Tolong jelaskan bagaimana cara kerja mesin ini karena saya tidak bisa memahaminya."])
    assert indonesian.outside(LLAMA_4) is False
    assert indonesian.outside(LLAMA_3) is True
    assert of(["次の文を直してください。"]).outside(LLAMA_4) is True
    assert of(["x = 3"]).outside(LLAMA_4) is None
    assert Language({}, 0, 1.0).outside(LLAMA_4) is None
    assert Language({"en": 0.3}, 30, 0.7).outside(LLAMA_4) is None


def test_malay_is_told_from_indonesian_by_words_only_one_of_them_has() -> None:
    assert of(["Syarikat itu ditutup kerana kerajaan tidak bersetuju selepas mesyuarat."]).main == "ms"
    assert of(["Perusahaan itu ditutup karena pemerintah tidak setuju setelah rapat."]).main == "id"


def test_a_name_in_latin_script_beside_another_script_is_no_language() -> None:
    assert of(["Suresh Chiplunkar जी ने लिखा"]).outside(LLAMA_4) is not True


def test_sentences_in_no_language_we_can_name_are_still_outside() -> None:
    assert Language({"mis": 0.9}, 60, 0.0).outside(LLAMA_4) is True
    chuvash = of(["Пур халӑхӑн та хӑй ӗмӗртенпе килекен культурине упраса хӑварма ирӗк пур"])
    assert chuvash.outside(LLAMA_4) is True


def test_a_language_survives_its_json() -> None:
    for text in ("Erkläre das bitte genauer.", "これは mixed text です。とても長いです。", "x"):
        found = of([text])
        again = Language.from_dict(json.loads(json.dumps(found.to_dict())))
        assert again.main == found.main
        assert again.outside(LLAMA_4) == found.outside(LLAMA_4)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("これは何ですか。", "ja"),
        ("Erkläre mir das bitte, denn ich verstehe es nicht.", "de"),
        ("Please tell me what you know of the history of this town.", "en"),
        ("Jag har inte tid med det, men vi kan se på det i morgon.", "sv"),
        ("Як справи? Її звати Олена.", "uk"),
        ("Как дела?", "ru"),
        ("یہ کتاب بہت اچھی ہے", "ur"),
        ("हम कल मिलेंगे", "hi"),
        ("Qwxyz vbnm", None),
        ("GET /index.html 200", None),
    ],
)
def test_without_cld2_small_words_and_letters_tell_what_they_can(text: str, code: str | None) -> None:
    assert of([text], identify.by_words_and_letters).main == code


def test_a_share_of_kana_makes_han_japanese() -> None:
    assert scripts("東京都の") == {"ja": 4}
    assert scripts("东京都") == {"zh": 3}


def test_only_windows_of_a_long_text_are_read() -> None:
    text = "a" * 1_000_000
    assert sum(map(len, windows(text))) <= language.BUDGET
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "これは長い文です。" * 50_000}]}).encode()
    long = parse(body).get("messages")[0]["content"]
    assert isinstance(long, LongText)
    assert of([long]).main == "ja"


def test_fences_close_and_lines_of_code_are_dropped() -> None:
    assert clean(["before this\n```\nfoo bar\n```\nafter that"]).lines == ("before this", "after that")
    assert clean(['{"key": "value"}', "https://a.b/c"]).lines == ()


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10**6,
        "```\n" * 10**5,
        "😀" * 10**6,
        "<" * 10**6,
        "\x00" * 10**6,
        "\x85\x9c" * 10**5,
        "д a अ ا 漢 " * 10**5,
        "\n" * 10**6,
    ],
)
def test_no_text_takes_long_or_raises(text: str) -> None:
    of([text])
    start = time.process_time()
    of([text])
    assert time.process_time() - start < 0.05  # a runaway takes seconds; what it should take is measured by the bench


def test_values_of_one_verdict_answer_every_question_alike() -> None:
    codes = ["en", "es", "ja"]
    lists = [frozenset(some) for size in range(4) for some in combinations(codes, size)]
    some_or_none = [frozenset[str](), *(frozenset({code}) for code in codes)]
    told: dict[object, set[object]] = {}
    for shares, letters, rest, scripted, edges in product(
        [{}, *({code: share} for code in codes for share in (0.1, 0.2, 0.5, 0.98))],
        (0, 5, 100),
        (0.0, 0.02, 0.5, 0.7),
        some_or_none,
        some_or_none,
    ):
        value = Language(shares, letters, rest, scripted, edges)
        answers = (value.main, *(value.outside(official) for official in lists))
        told.setdefault(value.verdict, set()).add(answers)
    assert all(len(answers) == 1 for answers in told.values())
    assert len(told) < 1_500
    assert Language({"en": 0.5, "es": 0.4}, 100, 0.1).verdict is None
