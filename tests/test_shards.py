"""Token shards on disk: what is written is read, and what is damaged is named."""

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bertsmith.atomic import sha256, write_json
from bertsmith.data import shards as shards_module
from bertsmith.data.shards import (
    MAX_OPEN_SHARDS,
    ShardContent,
    Shards,
    id_dtype,
    open_shards,
    pack_shard,
    shard_name,
    verify,
)
from bertsmith.errors import UserError
from bertsmith.prepare.facts import count_ids, measure_split


def content(ids: list[int], sentences: list[int], sections: list[int], documents: list[int]) -> ShardContent:
    """A shard of a small vocabulary."""
    return ShardContent(np.array(ids, np.uint16), np.array(sentences), np.array(sections), np.array(documents))


FIRST = content([10, 11, 12, 13, 14], sentences=[0, 2, 3], sections=[0, 3, 5], documents=[0, 1])
SECOND = content([20, 21, 22], sentences=[0, 1], sections=[0, 3], documents=[1])


def write_split(folder: Path, *contents: ShardContent) -> Path:
    """Write shards and their manifest."""
    entries = []
    for number, shard in enumerate(contents):
        path = folder / shard_name("train", number)
        path.write_bytes(pack_shard(shard))
        entries.append({"file": path.name, "size": path.stat().st_size, "sha256": sha256(path)})
    tokens = sum(len(shard.ids) for shard in contents)
    write_json(folder / "manifest.json", {"splits": {"train": {"tokens": tokens, "shards": entries}}})
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_split(tmp_path, FIRST, SECOND)


def test_shards_join_to_one_sequence_of_tokens(folder: Path) -> None:
    opened = open_shards(folder, "train")
    assert opened.num_tokens == 8
    assert opened.take(np.arange(8)).tolist() == [10, 11, 12, 13, 14, 20, 21, 22]
    assert opened.section_starts.tolist() == [0, 3, 5, 8]
    assert opened.section_document.tolist() == [0, 1, 1]
    assert opened.sentence_starts.tolist() == [0, 2, 3, 5, 6]


def test_ids_are_counted_in_all_shards_or_in_some_of_a_large_text(folder: Path) -> None:
    everything = count_ids(folder, "train", 30)
    assert np.flatnonzero(everything).tolist() == [10, 11, 12, 13, 14, 20, 21, 22]
    assert everything.sum() == 8
    assert np.flatnonzero(count_ids(folder, "train", 30, most=4)).tolist() == [10, 11, 12, 13, 14]  # every second one
    (folder / shard_name("train", 1)).unlink()
    with pytest.raises(UserError, match=r"train-00001\.safetensors is damaged: it is missing"):
        count_ids(folder, "train", 30)


def test_ids_of_a_large_vocabulary_are_counted(tmp_path: Path) -> None:
    large = FIRST._replace(ids=np.array([70_000, 11, 70_001, 70_000, 5], np.uint32))
    counts = count_ids(write_split(tmp_path, large), "train", 70_002)
    assert counts[[5, 11, 70_000, 70_001]].tolist() == [1, 1, 2, 1]
    assert counts.sum() == 5


def test_a_document_that_goes_on_in_the_next_shards_is_counted_once(tmp_path: Path) -> None:
    first = content([1, 2, 3], [0, 1], [0, 1, 3], [0, 1])
    nothing = content([], [], [0], [])
    write_split(tmp_path, first, content([4], [0], [0, 1], [1]), nothing, content([5, 6, 7], [0, 2], [0, 2, 3], [1, 4]))
    facts = measure_split(tmp_path, "train", 8)
    assert facts.manifest["documents"] == 3
    assert facts.manifest["document_lengths"] == [2, 0, 1]  # two of one token, one of five
    assert facts.manifest["sections"] == facts.manifest["sentences"] == 5
    assert facts.multi_sentence_fraction == 5 / 7


def test_memory_of_counting_does_not_grow_with_the_shards(tmp_path: Path) -> None:
    def peak(shards: int) -> int:
        places = list(range(5_000))
        lines = [
            content([1] * 5_000, places, [*places, 5_000], [5_000 * n + at for at in places]) for n in range(shards)
        ]
        folder = tmp_path / str(shards)
        folder.mkdir()
        write_split(folder, *lines)
        tracemalloc.start()
        measure_split(folder, "train", 8)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(16) < 1.5 * peak(2)


def test_all_tables_are_int64(folder: Path) -> None:
    opened = open_shards(folder, "train")
    arrays = [opened.section_starts, opened.section_document, opened.sentence_starts, opened.take(np.arange(2))]
    assert {array.dtype for array in arrays} == {np.dtype(np.int64)}


def test_take_keeps_order_repetition_and_shape(folder: Path) -> None:
    places = np.array([[7, 0, 5], [0, 4, 6]])
    assert open_shards(folder, "train").take(places).tolist() == [[22, 10, 20], [10, 14, 21]]


def test_take_of_nothing_is_empty(folder: Path) -> None:
    assert open_shards(folder, "train").take(np.empty(0, dtype=np.int64)).shape == (0,)


def test_a_shard_without_tokens_is_passed_over(tmp_path: Path) -> None:
    opened = open_shards(write_split(tmp_path, FIRST, content([], [], [0], []), SECOND), "train")
    assert opened.take(np.array([4, 5])).tolist() == [14, 20]
    assert opened.section_starts.tolist() == [0, 3, 5, 8]


def test_pickled_shards_hold_no_tokens_and_give_the_same(folder: Path) -> None:
    opened = open_shards(folder, "train")
    data = pickle.dumps(opened)
    copy: Shards = pickle.loads(data)
    assert len(data) < 500
    assert copy.take(np.arange(8)).tolist() == opened.take(np.arange(8)).tolist()


def test_more_shards_than_file_handles_can_be_read(tmp_path: Path) -> None:
    count = MAX_OPEN_SHARDS + 20
    opened = open_shards(write_split(tmp_path, *[SECOND] * count), "train")
    assert opened.take(np.arange(opened.num_tokens)).tolist() == [20, 21, 22] * count
    assert shards_module._mapped.cache_info().currsize <= MAX_OPEN_SHARDS


def test_ids_take_16_bits_only_when_all_fit() -> None:
    assert id_dtype(65_536) is np.uint16
    assert id_dtype(65_537) is np.uint32


def test_ids_above_65535_are_kept(tmp_path: Path) -> None:
    wide = SECOND._replace(ids=np.array([1, 65_536, 100_000], np.uint32))
    assert open_shards(write_split(tmp_path, wide), "train").take(np.arange(3)).tolist() == [1, 65_536, 100_000]


def test_equal_contents_give_equal_bytes() -> None:
    assert pack_shard(FIRST) == pack_shard(ShardContent(*(part.copy() for part in FIRST)))


def test_a_shard_is_a_plain_safetensors_file(folder: Path) -> None:
    assert load_file(folder / shard_name("train", 0))["ids"].tolist() == [10, 11, 12, 13, 14]


def test_a_good_folder_verifies(folder: Path) -> None:
    assert verify(folder) == []


def test_a_missing_shard_is_named_with_the_fix(folder: Path) -> None:
    (folder / shard_name("train", 1)).unlink()
    with pytest.raises(UserError, match=r"train-00001\.safetensors is damaged: it is missing; prepare again"):
        open_shards(folder, "train")
    assert verify(folder, full=False) == [shard_name("train", 1)]


def test_a_shortened_shard_is_named_with_its_size(folder: Path) -> None:
    path = folder / shard_name("train", 0)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"train-00000.safetensors is damaged: it has {size - 1} of {size} bytes"):
        open_shards(folder, "train")
    assert verify(folder, full=False) == [shard_name("train", 0)]


@pytest.mark.parametrize("place", [0, 8, 20, 60])
def test_a_damaged_header_is_one_clear_error(folder: Path, place: int) -> None:
    path = folder / shard_name("train", 0)
    data = bytearray(path.read_bytes())
    data[place : place + 8] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"train-00000\.safetensors is damaged"):
        open_shards(folder, "train")


def test_a_changed_byte_is_found_by_its_hash(folder: Path) -> None:
    path = folder / shard_name("train", 1)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert verify(folder, full=False) == []
    assert verify(folder) == [shard_name("train", 1)]


def test_a_shard_of_another_text_is_not_taken(folder: Path) -> None:
    """Files of the right size whose tokens are not those the manifest counts."""
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"tokens": 8', '"tokens": 9'))
    with pytest.raises(UserError, match="it counts 9 tokens, its shards 8"):
        open_shards(folder, "train")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"splits": {"train": {"shards": [{"file": "x"}]}}}', '{"splits": {"']
)
def test_a_damaged_manifest_is_one_clear_error(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        open_shards(folder, "train")


def test_a_folder_without_manifest_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bertsmith prepare"):
        open_shards(tmp_path, "train")
