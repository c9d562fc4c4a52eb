import json
import random

import pytest

from gateway.core.request.wire import parse
from gateway.core.text.longtext import LongText
from gateway.core.text.tokens import (
    PIECE_CHARS,
    SMALL_CHARS,
    TEMPLATES,
    Bounds,
    Count,
    Prompt,
    Tokenizers,
    Uncountable,
    pieces,
)


def words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def tokenizers(count: Count = words) -> Tokenizers:  # type: ignore[assignment]
    return Tokenizers({"words": count})


def long_text(text: str) -> LongText:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}, ensure_ascii=False)
    content = parse(body.encode()).get("messages")[0]["content"]
    assert isinstance(content, LongText)
    return content


def document(size: int, seed: int = 1) -> str:
    chance = random.Random(seed)
    return " ".join("w" * chance.choice((2, 4, 9, 14)) for _ in range(size))


def test_bytes_bound_a_prompt_before_anything_is_counted() -> None:
    prompt = Prompt(["héllo", "日本"], tokenizers())
    assert prompt.known("words") == (Bounds(0, 12), "by its bytes: no count was needed")
    assert prompt.known(None)[1] == "by its bytes: the tokenizer is not known"
    assert prompt.known("llama4")[1] == "by its bytes: tokenizer llama4 is not known here"


def test_a_small_prompt_is_counted_exactly_and_once() -> None:
    calls = []

    def count(texts: list[str]) -> list[int]:
        calls.append(texts)
        return words(texts)

    prompt = Prompt(["a b c", "d e"], tokenizers(count))  # type: ignore[arg-type]
    assert prompt.counted_now("words") == Bounds(5, 5, True)
    assert prompt.counted_now("words") == Bounds(5, 5, True)
    assert len(calls) == 1
    assert prompt.known("words")[1] == "counted"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", ["one", "many", "long", "mixed"])
def test_the_true_count_of_a_large_prompt_lies_in_its_interval(shape: str, seed: int) -> None:
    text = document(60_000, seed)
    third = len(text) // 3
    texts = {
        "one": [text],
        "many": [text[at : at + 700] for at in range(0, len(text), 700)],
        "long": [long_text(text)],
        "mixed": [text[:third], long_text(text[third:])],
    }[shape]
    prompt = Prompt(texts, tokenizers())
    bounds = prompt.counted_now("words")
    assert not bounds.exact
    exact = prompt.count_all("words")
    assert exact.exact
    assert bounds.lo <= exact.hi <= bounds.hi
    assert bounds.hi - bounds.lo < 0.3 * exact.hi
    assert abs(exact.hi - 60_000) < 0.002 * 60_000 + len(texts)


def test_an_interval_never_exceeds_the_bytes() -> None:
    prompt = Prompt(["x" * (SMALL_CHARS + 1)], tokenizers(lambda texts: [len(text) for text in texts]))
    assert prompt.counted_now("words").hi <= SMALL_CHARS + 1


def test_a_tokenizer_that_fails_leaves_the_bytes_bound_and_says_so() -> None:
    def panic(texts: list[str]) -> list[int]:
        raise Uncountable("failed on a text")

    for text in ("small", "large " * SMALL_CHARS):
        prompt = Prompt([text], tokenizers(panic))  # type: ignore[arg-type]
        assert prompt.counted_now("words") == Bounds(0, len(text), True)
        assert prompt.known("words")[1] == "by its bytes: the tokenizer failed"
        assert prompt.sharper("words") is None


def test_exact_counts_go_in_pieces_so_that_hostile_text_stays_cheap() -> None:
    seen = []

    def count(texts: list[str]) -> list[int]:
        seen.extend(map(len, texts))
        return [0 for _ in texts]

    Prompt([" " * 1_000_000, long_text("é" * 200_000)], tokenizers(count)).count_all("words")  # type: ignore[arg-type]
    assert max(seen) <= PIECE_CHARS
    assert "".join(pieces("ab" * PIECE_CHARS)) == "ab" * PIECE_CHARS


def test_where_few_slices_leave_a_question_more_are_counted_before_everything_is() -> None:
    text = document(300_000)
    prompt = Prompt([text], tokenizers())
    few = prompt.counted_now("words")
    assert prompt.known("words")[1] == "sampled at 128 places"
    more = prompt.sharper("words")
    assert more is not None
    many = more()
    assert prompt.known("words")[1] == "sampled at 512 places"
    assert few.lo <= many.lo <= 300_000 <= many.hi <= few.hi
    last = prompt.sharper("words")
    assert last is not None
    exact = last()
    assert exact.exact
    assert 300_000 <= exact.hi <= 300_000 + len(text) // PIECE_CHARS + 1  # a cut can split a word
    assert prompt.sharper("words") is None


#: Measured by rendering each model's own template: messages, rounds of tool calls, what they add.
MEASURED = [
    ("qwen3", 1, 0, 8), ("qwen3", 1, 0, 8 + 4), ("qwen3", 2, 0, 13), ("qwen3", 4, 0, 23), ("qwen3", 4, 1, 23 + 45),
    ("llama4", 1, 0, 10), ("llama4", 2, 0, 15), ("llama4", 4, 0, 25),
]  # fmt: skip


@pytest.mark.parametrize(("name", "messages", "calls", "measured"), MEASURED)
def test_a_template_is_bounded_closely_from_above(name: str, messages: int, calls: int, measured: int) -> None:
    assert measured <= TEMPLATES[name].added(messages, calls, False) <= measured + 16


@pytest.mark.parametrize(("json_tokens", "measured"), [(112, 204), (800, 892), (3_343, 3_435), (20_983, 21_403)])
def test_tools_are_bounded_closely_from_above(json_tokens: int, measured: int) -> None:
    """One, 5, 20 and 100 functions in Qwen 3's template: about 92 tokens and 1.00 to 1.02 x those of their JSON."""
    qwen = TEMPLATES["qwen3"]
    bound = qwen.tools_base + int(json_tokens * qwen.tools_factor) + 1
    assert measured <= bound <= measured * 1.06 + 128
    assert TEMPLATES["llama4"].tools_factor >= 1.30


def test_a_vocabulary_that_will_be_needed_is_noted_once_and_only_if_it_could_be_loaded() -> None:
    registry = Tokenizers({"words": words}, loaders={"more": lambda: words})  # type: ignore[dict-item,return-value]
    for name in ("words", "more", "more", "llama4"):
        registry.want(name)
    assert registry.take_wanted() == ["more"]
    assert registry.take_wanted() == []
    registry.want("more")
    registry.load("more")
    assert registry.take_wanted() == []


def test_a_vocabulary_is_loaded_when_a_count_first_needs_it() -> None:
    loaded = []

    def load() -> Count:
        loaded.append(True)
        return words  # type: ignore[return-value]

    registry = Tokenizers(loaders={"words": load})
    prompt = Prompt(["a b"], registry)
    assert registry.usable("words")
    assert prompt.counted_now("words") == Bounds(0, 3)
    assert not loaded
    step = prompt.sharper("words")
    assert step is not None
    assert step() == Bounds(2, 2, True)
    assert prompt.sharper("words") is None
    assert len(loaded) == 1
    assert Prompt(["a b"], Tokenizers(loaders={"words": load}, inline=True)).counted_now("words").exact


def test_a_vocabulary_that_does_not_load_is_named_with_its_reason() -> None:
    def load() -> Count:
        raise Uncountable("is another file")

    prompt = Prompt(["a b"], Tokenizers(loaders={"x": load}))
    step = prompt.sharper("x")
    assert step is not None
    assert step() == Bounds(0, 3)
    assert prompt.sharper("x") is None
    assert prompt.known("x")[1] == "by its bytes: tokenizer x is another file"
