"""Preparing a text: the shards hold it, whatever interrupted their making, and nothing stale is used."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bertsmith.atomic import sha256
from bertsmith.config import DataConfig
from bertsmith.corpus import open_corpus, split_sentences
from bertsmith.data.shards import MANIFEST, open_shards
from bertsmith.errors import UserError
from bertsmith.prepare import Prepared, build, chunks, held_out_sections, inputs, make_tokenizer, prepare
from bertsmith.prepare.accents import count_accents
from bertsmith.prepare.chunks import chunk_characters, split_of
from bertsmith.prepare.inputs import Text
from bertsmith.tokenizer import Tokenizer, load_tokenizer

LENGTH = 16
"""Sequence length of these tests: each split must hold 1,600 tokens."""

DOCUMENTS = 240


def sentence(generator: np.random.Generator, words: list[str]) -> str:
    """A few words, drawn with the frequencies of a language."""
    chosen = generator.zipf(1.2, size=generator.integers(4, 12)) % len(words)
    return " ".join(words[index] for index in chosen).capitalize() + "."


def write_text(path: Path, documents: int = DOCUMENTS, seed: int = 0) -> Path:
    """JSON lines; every fourth document is a single sentence."""
    generator = np.random.default_rng(seed)
    words = ["".join(generator.choice(list("abdeghiklmnorstuvwz"), size=size)) for size in [3, 4, 5, 6, 8] * 200]
    with path.open("w") as file:
        for number in range(documents):
            count = 1 if number % 4 == 0 else int(generator.integers(5, 15))
            text = " ".join(sentence(generator, words) for _ in range(count))
            file.write(json.dumps({"text": f"Number {number}. {text}" if count > 1 else text}) + "\n")
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.jsonl")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards from little text."""
    monkeypatch.setattr(chunks, "CHUNK_CHARACTERS", 12_000)


def settings(text: Path, **changes: Any) -> DataConfig:
    values: dict[str, Any] = {"validation_fraction": 0.25, "vocab_size": 400, "workers": 1}
    return DataConfig(text=(str(text),), **(values | changes))


def run(config: DataConfig, folder: Path, **options: Any) -> tuple[Prepared, list[str]]:
    """Prepare, and return what was reported too."""
    lines: list[str] = []
    return prepare(config, folder, report=lines.append, sequence_length=LENGTH, **options), lines


def hashes(folder: Path) -> dict[str, str]:
    """Hash of every shard of a run."""
    return {path.name: sha256(path) for path in sorted((folder / "data").glob("*.safetensors"))}


def shard_times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "data").glob("*.safetensors")}


def encoded(text: Path, tokenizer: Tokenizer, split: str) -> list[list[list[int]]]:
    """Ids of the sentences of each section of a split, straight from the text."""
    corpus = open_corpus((str(text),))
    sections = [section for section in corpus.sections() if split_of(section, 0.25) == split]
    return [tokenizer.encode_sentences(split_sentences(section.text)) for section in sections]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("split", ["train", "validation"])
def test_shards_hold_every_token_of_the_text_in_order(text: Path, tmp_path: Path, split: str) -> None:
    prepared, _ = run(settings(text), tmp_path / "run")
    shards = open_shards(prepared.folder, split)
    sections = encoded(text, load_tokenizer(prepared.tokenizer_folder), split)
    sentences = [ids for section in sections for ids in section]
    assert shards.take(np.arange(shards.num_tokens)).tolist() == [token for ids in sentences for token in ids]
    assert np.diff(shards.sentence_starts, append=shards.num_tokens).tolist() == [len(ids) for ids in sentences]
    assert np.diff(shards.section_starts).tolist() == [sum(map(len, section)) for section in sections]


@pytest.mark.usefixtures("small_chunks")
def test_sections_name_their_document(text: Path, tmp_path: Path) -> None:
    prepared, _ = run(settings(text), tmp_path / "run")
    documents = [open_shards(prepared.folder, split).section_document for split in ("train", "validation")]
    assert len(prepared.manifest["splits"]["train"]["shards"]) > 2
    assert sorted(np.concatenate(documents).tolist()) == list(range(DOCUMENTS))
    assert all((np.diff(ordinals) > 0).all() for ordinals in documents)


@pytest.mark.usefixtures("small_chunks")
def test_shards_do_not_depend_on_the_number_of_workers(text: Path, tmp_path: Path) -> None:
    run(settings(text, workers=1), tmp_path / "one")
    run(settings(text, workers=3), tmp_path / "three")
    assert hashes(tmp_path / "one") == hashes(tmp_path / "three")


KILLED = """
import os, signal, sys
from pathlib import Path
import psutil
from bertsmith.config import DataConfig
from bertsmith.prepare import chunks, prepare
chunks.CHUNK_CHARACTERS = 12_000
text, folder, stage, share = sys.argv[1:]
def progress(name, done):
    if name == stage and done >= float(share):
        print(*(child.pid for child in psutil.Process().children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
config = DataConfig(text=(text,), validation_fraction=0.25, vocab_size=400, workers=2)
prepare(config, Path(folder), report=lambda line: None, progress=progress, sequence_length=16)
"""


def prepare_until(text: Path, folder: Path, stage: str, share: float) -> list[int]:
    """Prepare in another process that kills itself; returns the ids of its workers."""
    command = [sys.executable, "-c", KILLED, str(text), str(folder), stage, str(share)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return [int(pid) for pid in ended.stdout.split()]


@pytest.mark.usefixtures("small_chunks")
def test_killed_preparations_end_in_the_same_shards(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "whole")
    stages = [("reading", 1.0), ("training the tokenizer", 0.5), ("tokenising", 0.3), ("tokenising", 0.8)]
    for stage, share in stages:
        prepare_until(text, tmp_path / "killed", stage, share)
        assert not (tmp_path / "killed" / "data" / MANIFEST).exists()
    before = shard_times(tmp_path / "killed")
    _, lines = run(settings(text), tmp_path / "killed")
    assert before
    assert before.items() <= shard_times(tmp_path / "killed").items(), "a finished shard was made again"
    assert "continuing the interrupted preparation" in lines
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")
    assert sha256(tmp_path / "killed/tokenizer/tokenizer.json") == sha256(tmp_path / "whole/tokenizer/tokenizer.json")


def test_no_worker_outlives_a_killed_preparation(text: Path, tmp_path: Path) -> None:
    workers = prepare_until(text, tmp_path / "run", "tokenising", 0.1)
    assert workers
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop_at(stage: str, share: float, act: Callable[[], None] | None = None) -> Callable[[str, float], None]:
    """A progress function that acts, or stops everything, once a stage is so far."""

    def progress(name: str, done: float) -> None:
        if name == stage and done >= share:
            if act is None:
                raise KeyboardInterrupt
            act()

    return progress


@pytest.mark.usefixtures("small_chunks")
def test_ctrl_c_leaves_a_state_that_continues(text: Path, tmp_path: Path) -> None:
    config = settings(text, workers=2)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "stopped", progress=stop_at("tokenising", 0.3))
    assert psutil.Process().children() == []
    run(config, tmp_path / "stopped")
    run(config, tmp_path / "whole")
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")


@pytest.mark.usefixtures("small_chunks")
def test_a_worker_that_dies_is_one_clear_error(text: Path, tmp_path: Path) -> None:
    def kill_workers() -> None:
        for child in psutil.Process().children():
            child.kill()

    with pytest.raises(UserError, match=r"a worker process ended early \(exit status -9\)"):
        run(settings(text, workers=2), tmp_path / "run", progress=stop_at("tokenising", 0.0, kill_workers))


def test_the_same_preparation_is_used_again(text: Path, tmp_path: Path) -> None:
    first, _ = run(settings(text), tmp_path / "run")
    before = shard_times(tmp_path / "run")
    second, lines = run(settings(text, workers=2), tmp_path / "run")
    assert shard_times(tmp_path / "run") == before
    assert second.manifest == first.manifest
    assert lines == [f"using the text prepared in {tmp_path / 'run' / 'data'}"]


def test_a_changed_text_is_prepared_again_and_named(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "run")
    before = hashes(tmp_path / "run")
    write_text(text, seed=1)
    _, lines = run(settings(text), tmp_path / "run")
    assert "preparing again: the text changed: text.jsonl has another size or time" in lines
    assert hashes(tmp_path / "run") != before


def test_a_changed_setting_is_prepared_again_and_named(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "run")
    prepared, lines = run(settings(text, vocab_size=300), tmp_path / "run")
    assert "preparing again: the settings changed: vocab_size was 400, is 300" in lines
    assert prepared.manifest["vocab_size"] == load_tokenizer(prepared.tokenizer_folder).vocab_size <= 300


def test_an_interrupted_preparation_of_another_text_is_not_continued(text: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(settings(text), tmp_path / "run", progress=stop_at("tokenising", 0.0))
    write_text(text, seed=1)
    _, lines = run(settings(text), tmp_path / "run")
    run(settings(text), tmp_path / "other")
    assert any(line.startswith("preparing from the beginning: the text changed") for line in lines)
    assert hashes(tmp_path / "run") == hashes(tmp_path / "other")


def test_preparing_again_can_be_interrupted_before_it_has_begun(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "run")
    write_text(text, seed=1)
    with pytest.raises(KeyboardInterrupt):
        run(settings(text), tmp_path / "run", progress=stop_at("reading", 0.0))
    run(settings(text), tmp_path / "run")
    run(settings(text), tmp_path / "other")
    assert hashes(tmp_path / "run") == hashes(tmp_path / "other")


def test_a_text_that_changes_while_it_is_read_is_refused(text: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"text\.jsonl has another size or time, while it was read"):
        run(settings(text), tmp_path / "run", progress=stop_at("tokenising", 1.0, lambda: os.utime(text, (0, 0))))


def test_a_run_with_checkpoints_keeps_its_shards_when_the_text_changed(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "run")
    before = hashes(tmp_path / "run")
    write_text(text, seed=1)
    _, lines = run(settings(text), tmp_path / "run", keep_existing=True)
    assert hashes(tmp_path / "run") == before
    assert len(lines) == 1
    assert "text.jsonl has another size or time" in lines[0]
    assert "--fresh" in lines[0]


def test_a_run_with_checkpoints_goes_on_when_the_text_is_gone(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "run")
    text.unlink()
    prepared, lines = run(settings(text), tmp_path / "run", keep_existing=True)
    assert open_shards(prepared.folder, "train").num_tokens == prepared.manifest["splits"]["train"]["tokens"]
    assert len(lines) == 1
    assert "--fresh" in lines[0]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("keep_existing", [False, True])
def test_only_a_damaged_shard_is_made_again(text: Path, tmp_path: Path, keep_existing: bool) -> None:
    run(settings(text), tmp_path / "run")
    good, times = hashes(tmp_path / "run"), shard_times(tmp_path / "run")
    os.truncate(tmp_path / "run/data/train-00001.safetensors", 100)
    _, lines = run(settings(text), tmp_path / "run", keep_existing=keep_existing)
    assert hashes(tmp_path / "run") == good
    changed = {name for name, time in shard_times(tmp_path / "run").items() if time != times[name]}
    assert changed == {"train-00001.safetensors"}
    assert any("train-00001.safetensors" in line for line in lines)


def test_a_shard_with_a_changed_byte_is_found_before_the_first_use(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "run")
    good = hashes(tmp_path / "run")
    with (tmp_path / "run/data/train-00000.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    run(settings(text), tmp_path / "run")
    assert hashes(tmp_path / "run") == good


def test_a_damaged_shard_whose_text_is_gone_is_one_clear_error(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "run")
    text.unlink()
    (tmp_path / "run/data/train-00000.safetensors").unlink()
    with pytest.raises(UserError, match=r"train-00000\.safetensors is damaged and cannot be made again.*--fresh"):
        run(settings(text), tmp_path / "run", keep_existing=True)


def test_a_run_whose_tokenizer_is_gone_is_one_clear_error(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "run")
    shutil.rmtree(tmp_path / "run/tokenizer")
    with pytest.raises(UserError, match="tokenizer does not fit this run"):
        run(settings(text), tmp_path / "run", keep_existing=True)


def test_text_that_is_added_moves_no_section_to_another_split(text: Path, tmp_path: Path) -> None:
    before = encoded_texts(text)
    after = encoded_texts(write_longer(text, tmp_path / "longer.jsonl"))
    assert before["train"] <= after["train"]
    assert before["validation"] <= after["validation"]


def encoded_texts(text: Path) -> dict[str, set[str]]:
    """Texts of the sections by split."""
    corpus = open_corpus((str(text),))
    found: dict[str, set[str]] = {"train": set(), "validation": set()}
    for section in corpus.sections():
        found[split_of(section, 0.25)].add(section.text)
    return found


def write_longer(text: Path, path: Path) -> Path:
    more = write_text(path.with_name("more.jsonl"), documents=50, seed=7)
    path.write_text(more.read_text() + text.read_text())
    return path


def test_a_share_of_the_sections_is_held_out(text: Path) -> None:
    found = encoded_texts(text)
    assert 0.15 < len(found["validation"]) / DOCUMENTS < 0.35


def test_a_validation_text_of_its_own_leaves_the_training_text_whole(text: Path, tmp_path: Path) -> None:
    held_out = write_text(tmp_path / "held_out.jsonl", documents=80, seed=3)
    config = settings(text, validation=str(held_out), validation_fraction=None)
    prepared, _ = run(config, tmp_path / "run")
    splits = prepared.manifest["splits"]
    assert splits["train"]["sections"] == DOCUMENTS
    assert splits["validation"]["sections"] == 80


def test_a_validation_text_that_is_learnt_from_is_refused(text: Path, tmp_path: Path) -> None:
    for held_out in (text, text.parent):
        config = settings(text, validation=str(held_out), validation_fraction=None)
        with pytest.raises(UserError, match="which is learnt from as part of"):
            run(config, tmp_path / "run")


def test_the_tokenizer_is_trained_on_the_training_text_alone(text: Path, tmp_path: Path) -> None:
    held_out = write_text(tmp_path / "held_out.jsonl", documents=80, seed=3)
    held_out.write_text(held_out.read_text().replace("Number", "\u03c9\u03b4\u03ae"))
    config = settings(text, validation=str(held_out), validation_fraction=None)
    prepared, _ = run(config, tmp_path / "run")
    tokenizer = load_tokenizer(prepared.tokenizer_folder)
    assert tokenizer.encode_sentences(["\u03c9"]) == [[tokenizer.unk_token_id]]


def test_a_sample_is_said_aloud_and_is_the_same_each_time(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run(settings(text), tmp_path / "whole")
    monkeypatch.setattr(build, "SAMPLE_BYTES", 20_000)
    one, lines = run(settings(text), tmp_path / "one")
    two, _ = run(settings(text), tmp_path / "two")
    assert any("sections chosen by hash" in line for line in lines)
    assert one.manifest["tokenizer"] == two.manifest["tokenizer"] != whole.manifest["tokenizer"]


def test_a_given_tokenizer_is_used_as_it_is(text: Path, tmp_path: Path) -> None:
    first, _ = run(settings(text), tmp_path / "first")
    other = write_text(tmp_path / "other.jsonl", seed=5)
    config = settings(other, tokenizer=str(first.tokenizer_folder), vocab_size=None)
    second, _ = run(config, tmp_path / "second")
    assert second.manifest["tokenizer"] == first.manifest["tokenizer"]


def test_a_tokenizer_can_be_made_alone(text: Path, tmp_path: Path) -> None:
    """It is the one that preparing the same text for the same rows makes, which decide how much is held out."""
    config = settings(text, validation_fraction=None)
    tokenizer = make_tokenizer(config, tmp_path / "tokenizer", report=print, sequence_length=LENGTH)
    prepared, _ = run(config, tmp_path / "run")
    assert load_tokenizer(tmp_path / "tokenizer").fingerprint() == tokenizer.fingerprint()
    assert tokenizer.fingerprint() == prepared.manifest["tokenizer"]


def test_another_tokenizer_in_the_folder_stays(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    first = make_tokenizer(settings(text), folder, report=print)
    make_tokenizer(settings(text), folder, report=print)  # the same again is no harm
    with pytest.raises(UserError, match="holds another tokenizer, and nothing is overwritten; give another folder"):
        make_tokenizer(settings(text, vocab_size=300), folder, report=print)
    assert load_tokenizer(folder).fingerprint() == first.fingerprint()


def test_a_text_that_is_all_held_out_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for number in range(9):  # one in four is held out
        path.write_text(f"A text of one section, number {number}.")
        try:
            make_tokenizer(settings(path, vocab_size=None), tmp_path / f"{number}", report=print)
        except UserError as error:
            assert "the part that is held out is all of it; give more text, or --validation FILE" in str(error)
            return
    raise AssertionError("none was held out")


def write_foreign(path: Path, words: list[str]) -> Path:
    """JSON lines of a few sentences in other words."""
    generator = np.random.default_rng(0)
    texts = [" ".join(sentence(generator, words) for _ in range(10)) for _ in range(DOCUMENTS)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


HINDI, KOREAN, GERMAN = "में मैं से की ने देशों".split(), "차별과 모든 사람은".split(), "schön schon über Mutter Vögel".split()


@pytest.mark.parametrize("words", [HINDI, KOREAN, GERMAN])
@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_marks_that_tell_words_apart_are_kept(words: list[str], kind: str, tmp_path: Path) -> None:
    text = write_foreign(tmp_path / "text.jsonl", words)
    config = settings(text, vocab_size=None, tokenizer=kind)
    prepared, lines = run(config, tmp_path / "run")
    tokenizer = load_tokenizer(prepared.tokenizer_folder)
    assert len({tuple(tokenizer.encode_sentences([word])[0]) for word in words}) == len(words)
    assert [line for line in lines if "accents are kept" in line and "--strip-accents removes them" in line]
    assert run(config, tmp_path / "run")[1] == [f"using the text prepared in {tmp_path / 'run/data'}"]
    stripped, lines = run(settings(text, vocab_size=None, tokenizer=kind, strip_accents=True), tmp_path / "stripped")
    tokenizer = load_tokenizer(stripped.tokenizer_folder)
    assert tokenizer.encode_sentences(["schön में"]) == tokenizer.encode_sentences(["schon म"])
    assert not [line for line in lines if "accents" in line]


def test_accents_are_counted_in_what_is_learnt_from(tmp_path: Path) -> None:
    """Not in a validation text, and without the marks that choose how an emoji is drawn."""
    text, other = write_text(tmp_path / "text.jsonl"), write_foreign(tmp_path / "other.jsonl", GERMAN)
    text.write_text(text.read_text().replace("Number", "❤\ufe0f Number"))
    _, lines = run(settings(text, validation=str(other), validation_fraction=None), tmp_path / "run")
    assert not [line for line in lines if "accents" in line]
    assert count_accents("𞤀\U0001e944") == 1  # Adlam


def test_a_prepared_folder_follows_what_was_decided_of_its_accents(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "plain")
    run(settings(write_foreign(tmp_path / "german.jsonl", GERMAN), vocab_size=None), tmp_path / "german")
    for name, removed in (("plain", True), ("german", False)):
        config = settings(tmp_path / name, vocab_size=None, validation_fraction=None, strip_accents=removed)
        run(config, tmp_path / f"of-{name}")
        with pytest.raises(UserError, match=f"strip_accents is {not removed}, there {removed}"):
            run(replace(config, strip_accents=not removed), tmp_path / f"against-{name}")


def test_rare_accents_are_removed_as_by_bert(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.jsonl")
    with text.open("a") as file:
        file.write(json.dumps({"text": "A café in Genève."}) + "\n")
    prepared, lines = run(settings(text), tmp_path / "run")
    tokenizer = load_tokenizer(prepared.tokenizer_folder)
    assert tokenizer.encode_sentences(["café"]) == tokenizer.encode_sentences(["Cafe"])
    assert not [line for line in lines if "accents" in line]


def test_what_other_rules_prepared_is_prepared_again_and_kept_by_a_run(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "run")
    path = tmp_path / "run/data/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["fingerprint"]["rules"] = 1
    path.write_text(json.dumps(manifest))
    said = "it was prepared by another version of Bertsmith"
    _, lines = run(settings(text), tmp_path / "run", keep_existing=True)
    assert lines == [f"{said}; this run goes on with the text it was given first (--fresh starts a new run)"]
    assert run(settings(text), tmp_path / "run")[1][0] == f"preparing again: {said}"


def test_a_validation_text_that_is_also_in_the_text_is_said(text: Path, tmp_path: Path) -> None:
    other = write_text(tmp_path / "other.jsonl", documents=200, seed=5)
    with other.open("a") as file:
        file.writelines(text.read_text().splitlines(keepends=True)[:30])
    _, lines = run(settings(text, validation=str(other), validation_fraction=None), tmp_path / "run")
    assert [line for line in lines if "30 of its 230 sections stand in the text, too" in line]
    alone = write_text(tmp_path / "alone.jsonl", documents=200, seed=5)
    _, lines = run(settings(text, validation=str(alone), validation_fraction=None), tmp_path / "alone")
    assert not [line for line in lines if "stand in the text" in line]


def test_a_validation_part_that_is_too_small_is_refused_with_its_size(text: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"validation part holds [\d,]+ tokens, it needs 10,000 tokens") as error:
        prepare(settings(text), tmp_path / "run", report=print, sequence_length=100)
    assert "--validation FILE, or a larger --validation-fraction" in str(error.value)


def test_where_words_are_too_long_for_wordpiece_that_is_why_a_text_is_too_small(tmp_path: Path) -> None:
    """As in a language without spaces, and in chains of proteins."""
    generator = np.random.default_rng(0)
    chains = ["".join(generator.choice(list("ACDEFGHIK"), 70 if n % 9 else 300)) for n in range(200)]
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": " ".join([chain[:70], chain * 2])}) + "\n" for chain in chains))
    with pytest.raises(UserError, match=r"\d% of them are unknown to the tokenizer.*give --tokenizer bpe"):
        prepare(settings(path, vocab_size=None), tmp_path / "run", report=print, sequence_length=90)


def test_more_of_a_small_text_is_held_out_when_no_share_is_given(text: Path, tmp_path: Path) -> None:
    config = settings(text, validation_fraction=None)
    prepared, lines = run(config, tmp_path / "run")
    share = prepared.manifest["validation_fraction"]
    assert any(f"{share:.0%} of its sections are held out instead of 1%" in line for line in lines)
    smaller = next(each for each in reversed(inputs.SHARES) if each < share)
    sections = list(open_corpus((str(text),)).sections())
    counts = {each: sum(split_of(section, each) == "validation" for section in sections) for each in (smaller, share)}
    assert prepared.manifest["sizes"]["validation"]["sections"] == counts[share] > counts[smaller]
    held_out = list(held_out_sections(config, prepared.manifest))
    assert len(held_out) == counts[share]
    assert run(config, tmp_path / "run")[1] == [f"using the text prepared in {tmp_path / 'run/data'}"]
    again = settings(tmp_path / "run", validation_fraction=None, vocab_size=None)
    assert run(again, tmp_path / "other")[0].manifest == prepared.manifest
    with pytest.raises(UserError, match=f"validation_fraction is 0.01, there {share}"):
        run(settings(tmp_path / "run", validation_fraction=0.01, vocab_size=None), tmp_path / "third")


def test_where_no_share_is_plenty_the_largest_is_taken(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.jsonl", documents=75)
    prepared, _ = run(settings(text, validation_fraction=None), tmp_path / "run")
    assert prepared.manifest["validation_fraction"] == max(inputs.SHARES)
    assert prepared.manifest["sizes"]["validation"]["bytes"] < 1.5 * 4 * 100 * LENGTH


def test_a_large_text_gives_the_least_share(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.jsonl", documents=5000)
    prepared, lines = run(settings(text, validation_fraction=None), tmp_path / "run")
    assert prepared.manifest["validation_fraction"] == 0.01
    assert not any("held out instead" in line for line in lines)


def test_a_text_that_is_certainly_too_small_is_refused_before_any_work(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.jsonl", documents=5)
    with pytest.raises(UserError, match="the text is too small"):
        run(settings(text), tmp_path / "run")
    assert not (tmp_path / "run/tokenizer").exists()


def test_a_prepared_text_can_be_too_small_for_longer_sequences(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "run")
    with pytest.raises(UserError, match="the text is too small"):
        prepare(settings(text), tmp_path / "run", report=print, sequence_length=100)


def test_a_folder_that_cannot_be_written_is_named(text: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"cannot write in {tmp_path / 'file' / 'run'}"):
        run(settings(text), tmp_path / "file" / "run")


LIMITED = """
import resource, signal, sys
from pathlib import Path
from bertsmith.config import DataConfig
from bertsmith.errors import UserError
from bertsmith.prepare import prepare
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
config = DataConfig(text=(sys.argv[1],), validation_fraction=0.25, vocab_size=400, workers=1)
try:
    prepare(config, Path(sys.argv[2]), report=lambda line: None, sequence_length=16)
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="limits the size of files, which Windows cannot")
def test_a_full_disk_is_one_clear_error_and_the_preparation_continues(tmp_path: Path) -> None:
    text, folder = write_text(tmp_path / "text.jsonl", documents=600), tmp_path / "run"
    command = [sys.executable, "-c", LIMITED, str(text), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.stderr == ""
    assert ended.stdout.startswith(f"cannot write in {folder}: File too large; free some space")
    _, lines = run(settings(text), folder)
    assert "continuing the interrupted preparation" in lines


def test_a_folder_with_other_data_is_left_alone(text: Path, tmp_path: Path) -> None:
    (tmp_path / "run/data").mkdir(parents=True)
    (tmp_path / "run/data/mine.tmp").touch()
    with pytest.raises(UserError, match=r"holds 'mine\.tmp', which is no part of a prepared text"):
        run(settings(text), tmp_path / "run")
    assert (tmp_path / "run/data/mine.tmp").exists()


def test_a_tokenizer_that_is_there_already_is_left_alone(text: Path, tmp_path: Path) -> None:
    (tmp_path / "run/tokenizer").mkdir(parents=True)
    with pytest.raises(UserError, match="was not made by this run"):
        run(settings(text), tmp_path / "run")


def test_a_prepared_folder_is_a_text(text: Path, tmp_path: Path) -> None:
    first, _ = run(settings(text), tmp_path / "first")
    second, _ = run(DataConfig(text=(str(tmp_path / "first"),)), tmp_path / "second")
    assert second.manifest == first.manifest
    shutil.rmtree(tmp_path / "first")
    assert open_shards(second.folder, "train").num_tokens == first.manifest["splits"]["train"]["tokens"]


def test_a_prepared_folder_can_be_the_run_itself(text: Path, tmp_path: Path) -> None:
    first, _ = run(settings(text), tmp_path / "run")
    second, _ = run(DataConfig(text=(str(tmp_path / "run"),)), tmp_path / "run")
    assert second == first


def test_a_prepared_folder_is_used_alone(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "first")
    with pytest.raises(UserError, match="first holds prepared text, which is used alone"):
        run(DataConfig(text=(str(text), str(tmp_path / "first"))), tmp_path / "second")


def test_settings_that_a_prepared_folder_cannot_follow_are_refused(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "first")
    config = DataConfig(text=(str(tmp_path / "first"),), vocab_size=1_000)
    with pytest.raises(UserError, match="first was prepared with other settings: vocab_size is 1000, there 400"):
        run(config, tmp_path / "second")
    config = DataConfig(text=(str(tmp_path / "first"),), document="auto")
    asked = frozenset({"lowercase", "vocab_size"})  # the first is as it was prepared, the second at its default
    with pytest.raises(UserError, match="vocab_size is None, there 400"):
        prepare(config, tmp_path / "second", report=print, explicit=asked)


def test_a_damaged_prepared_folder_is_refused(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "first")
    (tmp_path / "first/data/train-00000.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"train-00000\.safetensors is damaged; run `bertsmith prepare`"):
        run(DataConfig(text=(str(tmp_path / "first"),)), tmp_path / "second")


def test_a_missing_shard_is_brought_from_the_prepared_folder(text: Path, tmp_path: Path) -> None:
    run(settings(text), tmp_path / "first")
    config = DataConfig(text=(str(tmp_path / "first"),))
    run(config, tmp_path / "second")
    (tmp_path / "second/data/train-00000.safetensors").unlink()
    run(config, tmp_path / "second", keep_existing=True)
    assert hashes(tmp_path / "second") == hashes(tmp_path / "first")


@pytest.mark.usefixtures("small_chunks")
def test_the_manifest_counts_what_the_shards_hold(text: Path, tmp_path: Path) -> None:
    prepared, _ = run(settings(text), tmp_path / "run")
    for split, facts in prepared.manifest["splits"].items():
        shards = open_shards(prepared.folder, split)
        assert facts["tokens"] == shards.num_tokens
        assert facts["sentences"] == len(shards.sentence_starts)
        assert facts["sections"] == len(shards.section_document)
        assert facts["documents"] == len(np.unique(shards.section_document))


@pytest.mark.usefixtures("small_chunks")
def test_the_unigram_loss_is_that_of_smoothed_training_frequencies(text: Path, tmp_path: Path) -> None:
    prepared, _ = run(settings(text), tmp_path / "run")
    ids = {split: all_ids(prepared, split) for split in ("train", "validation")}
    counts = np.bincount(ids["train"], minlength=prepared.manifest["vocab_size"]) + 1
    expected = -np.log(counts / counts.sum())[ids["validation"]].mean()
    assert math.isclose(prepared.manifest["unigram_loss"], expected, rel_tol=1e-9)


def all_ids(prepared: Prepared, split: str) -> np.ndarray:
    shards = open_shards(prepared.folder, split)
    return shards.take(np.arange(shards.num_tokens))


@pytest.mark.usefixtures("small_chunks")
def test_multi_sentence_fraction_counts_documents_across_shards(tmp_path: Path) -> None:
    """A book fills several shards; the notes beside it have one sentence each."""
    generator = np.random.default_rng(0)
    words = ["kaba", "luri", "menot", "siva", "tokan"]
    book = " ".join(sentence(generator, words) for _ in range(4_000))
    notes = [" ".join(words) + f" {number}." for number in range(400)]
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": each}) + "\n" for each in [book, *notes]))
    prepared, _ = run(settings(text, vocab_size=None), tmp_path / "run")
    shards = open_shards(prepared.folder, "train")
    in_book = np.diff(shards.section_starts)[shards.section_document == 0].sum()
    assert prepared.manifest["splits"]["train"]["documents"] == len(np.unique(shards.section_document))
    assert math.isclose(prepared.manifest["multi_sentence_fraction"], in_book / shards.num_tokens, rel_tol=1e-9)


def test_a_small_text_is_read_from_the_disk_once(text: Path) -> None:
    held = Text(open_corpus((str(text),)))
    first = list(held.sections())
    text.unlink()
    assert list(held.sections()) == first


def test_a_large_text_is_read_again_each_time(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "HELD_CHARACTERS", 10_000)
    streamed = Text(open_corpus((str(text),)))
    first = list(streamed.sections())
    assert list(streamed.sections()) == first
    write_text(text, seed=1)
    assert list(streamed.sections()) != first


def test_chunks_grow_with_the_text_within_bounds() -> None:
    assert chunk_characters(1_000) == 4_000_000
    assert math.ceil(100e9 / chunk_characters(100_000_000_000)) <= 4_096
    assert chunk_characters(10**13) == 32_000_000


def test_preparing_imports_neither_torch_nor_pyarrow() -> None:
    code = "import sys, bertsmith.prepare; print({'torch', 'pyarrow', 'transformers', 'datasets'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
