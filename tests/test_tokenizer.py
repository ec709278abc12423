"""Vocabularies are the same everywhere, complete, exact in size, and read by transformers as by us."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from bertsmith.errors import UserError
from bertsmith.tokenizer import SPECIAL_TOKENS, Tokenizer, choose_vocab_size, load_tokenizer, train_tokenizer, words
from bertsmith.tokenizer.tokenizer import ROLES

from conftest import development_data
from prose import name, sentence

ODD = [
    "Hello World, na\u00efve caf\u00e9!",
    "The [MASK] function ends with [SEP] here",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",  # Arabic
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",  # Hindi
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",  # Thai
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 family \U0001f3f3\ufe0f\u200d\U0001f308",  # emoji joined by U+200D
    "e\u0301 a\u0308 \u1112\u1161\u11ab \u1e9b\u0323",  # combining
    "\u4e2d\u6587\u5b57 mixed \u6f22\u5b57",  # Chinese
    "tab\there\u00a0wide  double\r\nline\u2028end",
    "\u0130stanbul \u0391\u03a3 \u00df don't 3.14 $5 C++",
    "un[MASK]able [MASK][MASK] [mask] [PAD]",
    "zero\u200bwidth \ufeff \x00 \x1c \x85 \ufffd",
    "x" * 300,
    "",
    "   ",
]
PROSE = [f"{sentence(draw)} {name(draw)} {name(draw)}" for draw in map(random.Random, range(500))]


def train(texts: list[str] | None = None, **options: Any) -> Tokenizer:
    settings = {"kind": "wordpiece", "vocab_size": 500, "at_most": True} | options
    return train_tokenizer(PROSE + ODD * 3 if texts is None else texts, **settings)


@pytest.fixture(scope="module", params=["wordpiece", "bpe"])
def uncased(request: pytest.FixtureRequest) -> Tokenizer:
    return train(kind=request.param)


@pytest.fixture(scope="module", params=[("wordpiece", True), ("wordpiece", False), ("bpe", True), ("bpe", False)])
def each(request: pytest.FixtureRequest) -> Tokenizer:
    kind, lowercase = request.param
    return train(kind=kind, lowercase=lowercase)


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return tokenizer.tokens(tokenizer.encode_sentences([text])[0])


def hugging_face(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


# The vocabulary


def fingerprints(threads: int, seed: int, code: str) -> str:
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(seed)}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_training_gives_one_vocabulary_in_any_process_and_on_any_number_of_threads() -> None:
    code = "import test_tokenizer as t; print([t.train(kind=k).fingerprint() for k in ('wordpiece', 'bpe')])"
    assert len({fingerprints(threads, seed, code) for threads, seed in [(1, 0), (2, 1), (3, 2), (8, 3)]}) == 1


def test_training_does_not_depend_on_how_the_text_is_cut() -> None:
    assert train(["\n".join(PROSE)]).fingerprint() == train(PROSE[::-1]).fingerprint() == train(PROSE).fingerprint()


def test_training_does_not_depend_on_when_strings_are_cut_into_words(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(PROSE).fingerprint()
    monkeypatch.setattr(words, "_MOST_STRINGS", 50)
    assert train(PROSE).fingerprint() == whole


def test_special_tokens_have_the_first_ids(each: Tokenizer) -> None:
    assert each.tokens(range(5)) == list(SPECIAL_TOKENS)
    named = (each.pad_token_id, each.unk_token_id, each.cls_token_id, each.sep_token_id, each.mask_token_id)
    assert named == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
@pytest.mark.parametrize("size", [300, 333, 448])
def test_the_vocabulary_has_the_size_that_was_asked_for(kind: str, size: int) -> None:
    tokenizer = train(PROSE, kind=kind, vocab_size=size, at_most=False)
    assert tokenizer.vocab_size == size
    assert sorted(tokenizer.token_to_id(piece) for piece in tokenizer.tokens(range(size))) == list(range(size))


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
@pytest.mark.parametrize("texts", [PROSE, ["".join(map(chr, range(0x4E00, 0x4F00)))], ["ab ab abab"]])
def test_too_large_a_vocabulary_is_refused_with_the_size_that_works(kind: str, texts: list[str]) -> None:
    with pytest.raises(UserError, match=r"--vocab-size \d+ or less") as refused:
        train(texts, kind=kind, vocab_size=100_000, at_most=False)
    size = int(str(refused.value).split("--vocab-size ")[1].split()[0])
    assert train(texts, kind=kind, vocab_size=size, at_most=False).vocab_size == size
    with pytest.raises(UserError, match=rf"gives only {size:,} pieces; use --vocab-size {size} or less"):
        train(texts, kind=kind, vocab_size=size + 1, at_most=False)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_vocabulary_smaller_than_the_characters_is_refused_with_the_size_that_works(kind: str) -> None:
    with pytest.raises(UserError, match="vocab_size is 20, but") as refused:
        train(PROSE, kind=kind, vocab_size=20, at_most=False)
    size = int(str(refused.value).split("--vocab-size ")[1].split()[0])
    assert train(PROSE, kind=kind, vocab_size=size, at_most=False).vocab_size == size


def test_a_size_that_nobody_asked_for_grows_with_the_characters() -> None:
    chinese = "".join(map(chr, range(0x4E00, 0x4E00 + 1_000)))
    assert train([chinese * 2, *PROSE], vocab_size=500, at_most=True).vocab_size > 1_000


@pytest.mark.parametrize("size", [3_000, 100_000])
def test_a_size_that_is_an_upper_bound_shrinks_to_what_the_text_gives(size: int) -> None:
    assert 100 < train(PROSE, vocab_size=size, at_most=True).vocab_size < size


def test_large_vocabularies_that_shrink_are_multiples_of_64() -> None:
    draw = random.Random(0)
    text = " ".join("".join(draw.choices("abcdefgh", k=9)) for _ in range(4_000))
    size = train([text, text], vocab_size=1_000_000, at_most=True).vocab_size
    assert size > 4_096
    assert size % 64 == 0


@pytest.mark.parametrize("texts", [[], [""], [" \n\t"], ["\x00\x01"]])
def test_text_without_words_is_refused(texts: list[str]) -> None:
    with pytest.raises(UserError, match="holds no words"):
        train(texts)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="tokenizer is 'word-piece'; did you mean 'wordpiece'"):
        train(kind="word-piece")


def test_frequent_characters_are_pieces_and_rare_ones_are_unknown() -> None:
    tokenizer = train([*PROSE * 3, "\u03c9"])
    assert {"a", "##a", ".", "z"} <= set(tokenizer.tokens(range(tokenizer.vocab_size)))
    assert pieces(tokenizer, "a \u03c9") == ["a", "[UNK]"]


def test_characters_take_at_most_a_third_of_the_vocabulary() -> None:
    draw = random.Random(0)
    weights = [1 / (rank + 1) ** 2 for rank in range(3_000)]
    chinese = "".join(map(chr, draw.choices(range(0x4E00, 0x4E00 + 3_000), weights, k=30_000)))
    tokenizer = train(["".join(PROSE) * 9, chinese], vocab_size=600, at_most=False)
    characters = [piece for piece in tokenizer.tokens(range(5, 600)) if len(piece.removeprefix("##")) == 1]
    assert len(characters) <= 200


def test_words_of_more_than_100_characters_teach_nothing() -> None:
    blob = "".join(random.Random(0).choices("qxz", k=150))
    assert train([*PROSE, blob * 4]).fingerprint() == train(PROSE).fingerprint()


def test_byte_level_training_cuts_long_words() -> None:
    tokenizer = train([*PROSE, "q" * 5_000 + " " + "z" * 100_000], kind="bpe", vocab_size=1_000)
    assert 8 < max(map(len, tokenizer.tokens(range(tokenizer.vocab_size)))) <= words.LONGEST_WORD


def test_the_table_of_words_keeps_the_most_frequent_within_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST_CHARACTERS", 6)
    counted = words.count_words(["b aa c b aa d", "b e aa f"], str, str.split)
    assert dict(counted) == {"b": 3, "aa": 3, "c": 1, "d": 1, "e": 1}


def test_counts_of_very_large_texts_are_scaled_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_MOST_FED_WORDS", 100)
    fed = "".join(words.as_text({"a": 900, "b": 99, "c": 1})).split()
    assert {word: fed.count(word) for word in "abc"} == {"a": 82, "b": 9, "c": 1}


def test_words_are_fed_as_often_as_they_were_counted() -> None:
    fed = "".join(words.as_text({"the": 70_000, "x" * 100: 3, "y": 1})).split()
    assert [fed.count(word) for word in ("the", "x" * 100, "y")] == [70_000, 3, 1]


def test_the_chosen_size_doubles_with_ten_times_the_text_and_is_a_multiple_of_64() -> None:
    sizes = [choose_vocab_size(10**power) for power in range(4, 12)]
    assert sizes == [2_048, 2_048, 4_096, 8_192, 16_384, 32_768, 32_768, 32_768]
    assert all(choose_vocab_size(size) % 64 == 0 for size in range(0, 50_000_000, 777_777))


# Text to ids


def test_uncased_text_loses_case_and_accents() -> None:
    assert pieces(train(), "Na\u00efVE") == pieces(train(), "naive")


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_accents_are_kept_or_stripped_apart_from_case(kind: str) -> None:
    kept = train(kind=kind, lowercase=True, strip_accents=False)
    assert pieces(kept, "CAF\u00c9") == pieces(kept, "caf\u00e9") != pieces(kept, "cafe")
    stripped = train(kind=kind, lowercase=False, strip_accents=True)
    assert pieces(stripped, "Caf\u00e9") == pieces(stripped, "Cafe") != pieces(stripped, "cafe")


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_cased_text_keeps_case_and_accents(kind: str) -> None:
    cased = train(kind=kind, lowercase=False)
    assert pieces(cased, "Caf\u00e9") != pieces(cased, "caf\u00e9") != pieces(cased, "cafe")


def test_chinese_characters_stand_alone() -> None:
    assert pieces(train(), "\u4e2d\u6587a") == ["\u4e2d", "\u6587", "a"]


def test_byte_level_pieces_spell_any_text() -> None:
    cased = train(kind="bpe", lowercase=False)
    for text in [*ODD, "\U0001f9ff \u1362 never seen"]:
        ids = cased.encode_sentences([text])[0]
        assert cased.unk_token_id not in ids
        assert cased.decode(ids).split() == " ".join(normal_form(text).split()).split()


def normal_form(text: str) -> str:
    import unicodedata

    return unicodedata.normalize("NFC", text)


def test_byte_level_words_are_the_same_pieces_at_the_start_of_a_sentence() -> None:
    tokenizer = train(PROSE, kind="bpe")
    assert pieces(tokenizer, "dog  \t dog")[0] == pieces(tokenizer, "dog  \t dog")[1] == "\u0120dog"


@pytest.mark.parametrize(
    "word",
    [
        "\u0939\u093f\u0928\u094d\u0926\u0940",  # Hindi: vowel signs and a virama
        "\u1019\u103c\u1014\u103a\u1019\u102c",  # Burmese
        "\u0645\u06cc\u200c\u0631\u0648\u062f",  # Persian: a joiner
        "e\u0300\u0323",  # Yoruba: a mark that no letter holds
    ],
)
def test_a_mark_stays_with_its_letter(word: str) -> None:
    tokenizer = train([f"{word} {word}" for _ in range(50)], kind="bpe", vocab_size=300, lowercase=False, at_most=True)
    assert pieces(tokenizer, word) == pieces(tokenizer, f"{word} {word}")[:1]


def test_text_that_spells_a_special_token_is_ordinary_text_in_a_corpus(each: Tokenizer) -> None:
    for token in SPECIAL_TOKENS:
        ids = each.encode_sentences([f"a {token} b", token])
        assert each.token_to_id(token) not in {*ids[0], *ids[1]} - {each.unk_token_id}
        assert len(ids[1]) >= 3
    assert each.unk_token_id not in each.encode_sentences(["[MASK]"])[0]


def test_the_mask_token_is_found_in_what_a_user_types(each: Tokenizer) -> None:
    ids = each.encode("The [MASK] sees").ids
    assert ids == [2, *each.encode_sentences(["The"])[0], 4, *each.encode_sentences(["sees"])[0], 3]


def test_cls_and_sep_stand_around_a_text_and_a_pair(each: Tokenizer) -> None:
    one, other = each.encode_sentences(["The dog.", "A cat sees"])
    pair = each.encode("The dog.", "A cat sees")
    assert each.encode("The dog.").ids == [2, *one, 3]
    assert pair.ids == [2, *one, 3, *other, 3]
    assert pair.type_ids == [0] * (len(one) + 2) + [1] * (len(other) + 1)


def test_offsets_and_words_of_a_text(uncased: Tokenizer) -> None:
    encoding = uncased.encode("The old dog")
    assert encoding.offsets == [(0, 0), (0, 3), (4, 7), (8, 11), (0, 0)]
    assert encoding.word_ids == [None, 0, 1, 2, None]


def test_decoding_gives_readable_text(uncased: Tokenizer) -> None:
    ids = uncased.encode("The old dog sees, again.").ids
    assert uncased.decode(np.array(ids)).strip() == "the old dog sees, again."
    assert "[SEP]" in uncased.decode(ids, skip_special_tokens=False)


def test_lone_surrogates_are_replaced(uncased: Tokenizer) -> None:
    assert uncased.encode_sentences(["dog", "a \ud800 cat"]) == uncased.encode_sentences(["dog", "a \ufffd cat"])
    assert uncased.encode("a \udfff").ids == uncased.encode("a \ufffd").ids
    assert train(["\ud800 a a"], kind="bpe").fingerprint() == train(["\ufffd a a"], kind="bpe").fingerprint()


def test_sentences_without_characters_have_no_ids() -> None:
    assert train().encode_sentences(["", " ", "\x00"]) == [[], [], []]
    assert train().encode_sentences([]) == []


def test_pieces_inside_words_are_marked(uncased: Tokenizer) -> None:
    inside = uncased.continues_word()
    assert inside.shape == (uncased.vocab_size,)
    assert inside.dtype == np.bool_
    assert not inside[:5].any()
    ids = uncased.encode_sentences(["the zzzkd river"])[0]
    assert [bool(inside[i]) for i in ids] == [False, False, *[True] * (len(ids) - 3), False]


def test_random_replacements_are_ordinary_pieces(tmp_path: Path) -> None:
    rows = [*SPECIAL_TOKENS, "[unused0]", "[unused12]", "a", "a", "##b"]  # "a" twice: the first id has no piece
    (tmp_path / "vocab.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 10
    assert tokenizer.ordinary_ids().tolist() == [8, 9]
    assert tokenizer.continues_word().tolist() == [False] * 9 + [True]


# Files


def test_saving_and_loading_changes_nothing(each: Tokenizer, tmp_path: Path) -> None:
    each.save(tmp_path, model_max_length=128)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint() == each.fingerprint()
    assert again.encode_sentences(ODD) == each.encode_sentences(ODD)
    again.save(tmp_path / "again", model_max_length=128)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_the_fingerprint_tells_tokenizers_apart() -> None:
    assert (
        len({train(**o).fingerprint() for o in ({}, {"lowercase": False}, {"vocab_size": 400}, {"kind": "bpe"})}) == 4
    )


def test_saved_files_are_as_transformers_wants_them(each: Tokenizer, tmp_path: Path) -> None:
    each.save(tmp_path, model_max_length=77, model_input_names=("input_ids", "attention_mask"))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["model_max_length"] == 77
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert content["truncation"] is content["padding"] is None
    assert [token["content"] for token in content["added_tokens"]] == list(SPECIAL_TOKENS)


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False])
def test_a_bert_tokenizer_of_transformers_gives_the_same_ids(
    lowercase: bool, strip_accents: bool, tmp_path: Path
) -> None:
    """By its name; it makes its own normaliser, of what tokenizer_config.json says."""
    from transformers import BertTokenizerFast

    ours = train(lowercase=lowercase, strip_accents=strip_accents)
    ours.save(tmp_path, model_max_length=128)
    theirs = BertTokenizerFast.from_pretrained(tmp_path)
    for text in ("Élan vital, über café", "में मैं", "차별과 中文"):
        assert theirs(text)["input_ids"] == ours.encode(text).ids


def test_transformers_gives_the_same_ids(each: Tokenizer, tmp_path: Path) -> None:
    each.save(tmp_path, model_max_length=128)
    theirs = hugging_face(tmp_path)
    assert theirs.model_max_length == 128
    assert len(theirs) == each.vocab_size
    for text in ODD:
        for pair in (None, "and " + text):
            ours, given = each.encode(text, pair), theirs(text, pair)
            assert (ours.ids, ours.type_ids) == (given["input_ids"], given["token_type_ids"])


def test_a_folder_that_transformers_saved_again_is_the_same_tokenizer(each: Tokenizer, tmp_path: Path) -> None:
    each.save(tmp_path / "ours", model_max_length=128)
    hugging_face(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = load_tokenizer(tmp_path / "theirs")
    assert [again.encode(text).ids for text in ODD] == [each.encode(text).ids for text in ODD]


def write_vocabulary(folder: Path, tokenizer: Tokenizer) -> Path:
    folder.mkdir(exist_ok=True)
    rows = tokenizer.tokens(range(tokenizer.vocab_size))
    (folder / "vocab.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "vocab.txt"


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_vocabulary_alone_is_a_tokenizer_and_shows_its_case(lowercase: bool, tmp_path: Path) -> None:
    trained = train(lowercase=lowercase)
    file = write_vocabulary(tmp_path, trained)
    for source in (file, str(tmp_path)):
        assert load_tokenizer(source).fingerprint() == trained.fingerprint()


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_folder_of_transformers_4_gives_the_same_ids(lowercase: bool, tmp_path: Path) -> None:
    write_vocabulary(tmp_path, train(lowercase=lowercase))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL_TOKENS, strict=True))
    config = {"do_lower_case": lowercase, "tokenizer_class": "BertTokenizer", "strip_accents": None} | names
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    marked = {role: {"content": name, "lstrip": False} for role, name in names.items()}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(marked), encoding="utf-8")
    ours, theirs = load_tokenizer(tmp_path), hugging_face(tmp_path)
    assert [ours.encode(text).ids for text in ODD] == theirs(ODD)["input_ids"]


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_folder_of_transformers_5_gives_the_same_ids(lowercase: bool, tmp_path: Path) -> None:
    from transformers import BertTokenizer

    trained = train(lowercase=lowercase)
    pieces_to_ids = {piece: number for number, piece in enumerate(trained.tokens(range(trained.vocab_size)))}
    BertTokenizer(vocab=pieces_to_ids, do_lower_case=lowercase).save_pretrained(tmp_path)
    ours, theirs = load_tokenizer(tmp_path), hugging_face(tmp_path)
    assert [ours.encode(text).ids for text in ODD] == theirs(ODD)["input_ids"]
    assert [ours.encode(text).ids for text in ODD] == [trained.encode(text).ids for text in ODD]


def test_what_a_loaded_tokenizer_lacks_is_added(tmp_path: Path) -> None:
    trained = train()
    trained.save(tmp_path, model_max_length=128)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content |= {"post_processor": None, "added_tokens": []}
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "bare.json").write_text(json.dumps(content), encoding="utf-8")
    loaded = load_tokenizer(tmp_path / "bare.json")
    assert [loaded.encode(text).ids for text in ODD] == [trained.encode(text).ids for text in ODD]
    assert loaded.fingerprint() == trained.fingerprint()


def test_special_tokens_may_have_other_names(tmp_path: Path) -> None:
    names = {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": "<mask>",
    }
    (tmp_path / "vocab.txt").write_text("\n".join(["dog", *names.values()]) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    loaded = load_tokenizer(tmp_path)
    loaded.save(tmp_path / "saved", model_max_length=128)
    for tokenizer in (loaded, load_tokenizer(tmp_path / "saved")):
        assert tokenizer.encode("dog <mask> cat").ids == [3, 0, 5, 2, 4]
        assert tokenizer.ordinary_ids().tolist() == [0]


def test_the_tokenizer_of_a_run_is_found(tmp_path: Path) -> None:
    trained = train()
    trained.save(tmp_path / "tokenizer", model_max_length=128)
    assert load_tokenizer(tmp_path).fingerprint() == trained.fingerprint()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json cannot be read"),
        ("tokenizer.json", "[]", r"tokenizer\.json holds no JSON object"),
        ("tokenizer.json", '{"model": 3}', r"tokenizer\.json is not a tokenizer"),
        ("tokenizer.json", b"\xff\xfe\x00", r"tokenizer\.json cannot be read"),
        ("vocab.txt", b"\xff\xfe\x00", r"vocab\.txt is not a vocabulary"),
        ("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n", r"vocab\.txt has no \[SEP\], \[MASK\]"),
        ("vocab.txt", "", r"vocab\.txt has no \[PAD\]"),
        ("other.txt", "", r"holds neither tokenizer\.json nor vocab\.txt"),
    ],
)
def test_a_broken_tokenizer_is_refused_in_one_line(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message) as refused:
        load_tokenizer(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("missing", SPECIAL_TOKENS)
def test_a_vocabulary_without_a_special_token_is_refused(missing: str, tmp_path: Path) -> None:
    file = write_vocabulary(tmp_path, train())
    file.write_text(file.read_text(encoding="utf-8").replace(missing, "spare"), encoding="utf-8")
    with pytest.raises(UserError, match=rf"has no \{missing[:-1]}"):
        load_tokenizer(file)


def test_a_misspelt_kind_is_recognised() -> None:
    with pytest.raises(UserError, match="tokenizer 'wordpeice' does not exist; did you mean 'wordpiece'"):
        load_tokenizer("wordpeice")


# On real data


def golden_rows() -> list[dict[str, Any]]:
    file = development_data("bert_ref/goldens.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.slow
def test_the_vocabulary_of_bert_gives_the_reference_ids() -> None:
    tokenizer = load_tokenizer(development_data("bert_ref/vocab.txt"))
    for row in golden_rows():
        encoding = tokenizer.encode(row["text"])
        assert encoding.ids == row["uncased_ids"], row["src"]
        assert encoding.offsets == [tuple(pair) for pair in row["uncased_offsets"]], row["src"]
        assert tokenizer.encode_sentences([row["text"]])[0] == row["uncased_ids"][1:-1], row["src"]


@pytest.mark.slow
def test_the_vocabulary_of_bert_gives_the_reference_ids_when_case_is_kept(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(development_data("bert_ref/vocab.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    for row in golden_rows():
        assert tokenizer.encode(row["text"]).ids == row["cased_ids"], row["src"]


def wikipedia(characters: int) -> Iterator[str]:
    import io

    import pyarrow

    with pyarrow.CompressedInputStream(str(development_data("enwiki/train.jsonl.zst")), "zstd") as stream:
        for line in io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8"):
            if characters <= 0:
                return
            text = json.loads(line)["text"]
            characters -= len(text)
            yield text


@pytest.mark.slow
def test_training_on_much_text_with_many_ties_gives_one_vocabulary() -> None:
    development_data("enwiki/train.jsonl.zst")
    code = (
        "import test_tokenizer as t; texts = list(t.wikipedia(4_000_000));"
        "print([t.train(texts, kind=k, vocab_size=10**6).fingerprint() for k in ('wordpiece', 'bpe')])"
    )
    assert len({fingerprints(threads, seed, code) for threads, seed in [(1, 0), (2, 1), (2, 2), (5, 3)]}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_training_on_20_mb_stays_below_500_mb(kind: str) -> None:
    development_data("enwiki/train.jsonl.zst")
    code = (  # the peak that getrusage knows may be that of the process that started this one
        "import test_tokenizer as t;"
        f"t.train(t.wikipedia(20_000_000), kind='{kind}', vocab_size=16_384);"
        "print(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024)"
    )
    assert int(fingerprints(2, 0, code)) < 500


@pytest.mark.parametrize(("puts_space_first", "reads_space"), [(True, False), (False, True)])
def test_a_sentence_in_running_text_has_one_space_before_it(puts_space_first: bool, reads_space: bool) -> None:
    """Some tokenizers put it before any text: then it must not be given twice."""
    raw = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    steps = [tokenizers.normalizers.Prepend("▁")] * puts_space_first
    raw.normalizer = tokenizers.normalizers.Sequence([*steps, tokenizers.normalizers.Replace(" ", "▁")])
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Split("▁", "merged_with_next")
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=60, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    raw.train_from_iterator(["a cab", "a b"], trainer)
    tokenizer = Tokenizer(json.loads(raw.to_str()), dict(zip(ROLES, SPECIAL_TOKENS, strict=True)))
    assert tokenizer.reads_space is reads_space
    ids = tokenizer.encode_running(["a", "b"]).ids
    assert tokenizer.decode(ids).replace(" ", "").replace("▁", " ") == " a b"
