"""BERT, as in "BERT: Pre-training of Deep Bidirectional Transformers" (arXiv:1810.04805), top to bottom.

Inside, a batch is always packed: the real tokens of all sequences one after the
other. `BertModel.forward` turns the usual padded batch into a packed one and
back. Letters: B rows of L places, T tokens, N sequences, M masked tokens, R rows of
Q queries, D hidden, F intermediate, H heads, K head_dim, V vocabulary.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bertsmith.errors import require
from bertsmith.model.attention import attend, prepare, project
from bertsmith.model.bert_folder import BERT, read_encoder
from bertsmith.model.check import check_shape
from bertsmith.model.dropout import Dropout
from bertsmith.model.first_weights import initialize
from bertsmith.model.folder import ModelFolder, write_folder
from bertsmith.model.heads import MaskedLanguageHead, activation
from bertsmith.model.norm import BertNorm
from bertsmith.model.output import BertOutput, BertPretrainingOutput
from bertsmith.model.packed import Packed, asked_by, first_places, first_tokens, pick, place_in_sequence, split_rows
from bertsmith.model.padded import encode_padded


@dataclass(frozen=True, kw_only=True, slots=True)
class BertConfig:
    """Shape of the model. Field names and defaults are those of BERT-base and of its config.json."""

    model_type: ClassVar = "bert"

    vocab_size: int = 30522
    """Rows in the word embedding (V). Must equal the tokenizer's size."""

    hidden_size: int = 768
    """Width of the residual stream (D)."""

    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    """Heads per block (H). Must divide `hidden_size`."""

    intermediate_size: int = 3072
    """Width inside the feed-forward layer (F)."""

    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    """Longest sequence, in tokens."""

    type_vocab_size: int = 2
    initializer_range: float = 0.02
    """Sigma of the initial weights."""

    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    """A token whose embedding learns nothing from being read, as in transformers. None: there is no such token."""

    def __post_init__(self) -> None:
        check_shape(self)
        activation(self.hidden_act)


class BertEmbeddings(nn.Module):
    """What a token is, where it stands, and which segment it is in: three embeddings, summed."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = BertNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Each int64 [T] -> float [T, D]."""
        words, types = self.word_embeddings(input_ids), self.token_type_embeddings(token_type_ids)
        hidden: Tensor = self.dropout(self.norm(words + types + self.position_embeddings(position_ids)))
        return hidden


class BertSelfAttention(nn.Module):
    """Bidirectional multi-head self-attention (arXiv:1706.03762, section 3.2.2), three projections in one matrix."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, packed: Packed) -> Tensor:
        """Let every token that asks gather from its sequence: float [T, D] -> float [T, D] or [R x Q, D]."""
        q, k, v = project(self.qkv, hidden, packed.queries, self.num_heads)
        gathered = attend(q, k, v, packed, dropout_p=self.dropout_prob if self.training else 0.0)
        mixed: Tensor = self.out(gathered.flatten(1))
        return mixed


class BertBlock(nn.Module):
    """Attention, then a feed-forward layer; each is added to its input and normalised after that (post-norm)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = BertSelfAttention(config)
        self.attention_norm = BertNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = activation(config.hidden_act)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = BertNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, packed: Packed) -> Tensor:
        """float [T, D] -> float [T, D], or [R x Q, D] where only some tokens ask."""
        attended = self.dropout(self.attention(hidden, packed))
        hidden = self.attention_norm(pick(hidden, packed.queries) + attended)
        transformed = self.dropout(self.output(self.activation(self.intermediate(hidden))))
        output: Tensor = self.output_norm(hidden + transformed)
        return output


class BertPooler(nn.Module):
    """One vector for a whole sequence, read off its first token, [CLS]."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_token: Tensor) -> Tensor:
        """float [N, D] -> float [N, D], in (-1, 1)."""
        return torch.tanh(self.dense(first_token))


class BertModel(nn.Module):
    """The encoder."""

    def __init__(
        self, config: BertConfig, add_pooling_layer: bool = True, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.blocks = nn.ModuleList(BertBlock(config) for _ in range(config.num_hidden_layers))
        self.pooler = BertPooler(config) if add_pooling_layer else None
        initialize(self, config.initializer_range, generator)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        packed: Packed | None = None,
        queries: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> BertOutput:
        """Encode a padded batch, or a packed one when `packed` is given.

        Args:
            input_ids: int64 [B, L], or [T] when packed.
            attention_mask: [B, L], not 0 at real tokens; None: all are real. Only these are computed.
            token_type_ids: int64, as `input_ids`. Segment of each token; None: 0.
            position_ids: int64, as `input_ids`. None: counted from 0 in each sequence, or in each padded row.
            packed: Where the sequences of a packed batch lie.
            queries: int64 [R, Q]. Flat places whose output, [R x Q, D], is asked for; None: all. The last block
                computes them alone, and the first tokens for `pooled_output`. R are the rows of `packed.row_length`
                places, with as many sequences in each, or else the sequences; or the B rows, without padding. Each
                place must lie in its row, which is not looked at.
            output_hidden_states: Return the hidden states of all layers.

        Returns:
            The output of the encoder. `pooled_output` reads the first real token of each sequence: place 0
            of the row, unless that is padding (transformers then reads the padding). That of an empty sequence means
            nothing.

        Raises:
            UserError: A padded row is longer than `max_position_embeddings`, or mask or queries do not fit the input.
        """
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        if packed is None:

            def encode(tokens: Tensor, types: Tensor, positions: Tensor, **more: Any) -> BertOutput:
                return self.forward(tokens, None, types, positions, **more, output_hidden_states=output_hidden_states)

            ids, longest = (input_ids, token_type_ids), self.config.max_position_embeddings
            return encode_padded(encode, ids, position_ids, attention_mask, queries=queries, longest=longest)
        require(attention_mask is None, "attention_mask is given with packed, which has no padding; leave it out")
        if position_ids is None:
            position_ids = place_in_sequence(packed.cu_seqlens, len(input_ids))
        hidden = self.embeddings(input_ids, token_type_ids, position_ids)
        states = [hidden] if output_hidden_states else None
        dropout_p = self.config.attention_probs_dropout_prob if self.training else 0.0
        packed = prepare(packed, hidden, num_heads=self.config.num_attention_heads, dropout_p=dropout_p)
        asked = queries
        if queries is not None and self.pooler is not None:
            asked = torch.cat([queries, first_places(packed, len(input_ids)).to(queries.dtype)], 1)
        for number, block in enumerate(self.blocks, 1):
            last = number == len(self.blocks)
            hidden = block(hidden, asked_by(packed, asked, len(input_ids)) if last else packed)
            if states is not None:
                states.append(hidden)
        pooled: Tensor | None = None
        if self.pooler is not None:
            if queries is None:
                first = first_tokens(hidden, packed.cu_seqlens)
            else:
                hidden, first = split_rows(hidden, *queries.shape)
            pooled = self.pooler(first)
        return BertOutput(hidden, pooled, None if states is None else (*states[:-1], hidden))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a Hugging Face folder that transformers' `BertModel` reads."""
        write_folder(Path(folder), self, asdict(self.config), BERT, architecture="BertModel")

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, add_pooling_layer: bool | None = None) -> "BertModel":
        """Read the encoder from a Hugging Face folder of any BERT, as float32 and in evaluation mode.

        Args:
            folder: Holds config.json and model.safetensors.
            add_pooling_layer: None: if the folder has one. True where it has none gives an untrained one.

        Raises:
            UserError: The folder can not be read, or does not hold such a model.
        """
        return read_encoder(Path(folder), lambda shape, pooler: cls(BertConfig(**shape), pooler), add_pooling_layer)


class BertPretrainingModel(nn.Module):
    """The encoder and the heads of its two tasks. Without next sentences nothing trains a pooler: there is none."""

    def __init__(
        self, config: BertConfig, next_sentence: bool = True, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.bert = BertModel(config, add_pooling_layer=next_sentence, generator=generator)
        self.mlm_head = MaskedLanguageHead(
            config.hidden_size, config.vocab_size, config.hidden_act, config.layer_norm_eps
        )
        self.nsp_head = nn.Linear(config.hidden_size, 2) if next_sentence else None
        for head in filter(None, (self.mlm_head, self.nsp_head)):
            initialize(head, config.initializer_range, generator)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        masked_index: Tensor | None = None,
        packed: Packed | None = None,
    ) -> BertPretrainingOutput:
        """Guess the masked words and the next sentences, of a padded batch or a packed one.

        Args:
            input_ids: This and what is not said here is as in `BertModel.forward`.
            attention_mask: Real tokens.
            token_type_ids: Segments.
            position_ids: Positions.
            masked_index: int64 [M]. Flat places, in [0, B x L) or [0, T), to score the vocabulary at; None: all.
                The scores are a large part of a step, so training asks only for the masked places. Where there are
                as many in each row: [R, Q] with M = R x Q, the `queries` of the encoder, which is faster.
            packed: Boundaries of a packed batch.
        """
        queries = masked_index if masked_index is not None and masked_index.dim() == 2 else None
        output = self.bert(input_ids, attention_mask, token_type_ids, position_ids, packed=packed, queries=queries)
        hidden = output.sequence_output
        if masked_index is not None and queries is None:
            hidden = hidden.flatten(0, -2).index_select(0, masked_index)
        mlm_logits = self.mlm_head(hidden, self.bert.embeddings.word_embeddings.weight)
        nsp_logits = self.nsp_head(output.pooled_output) if self.nsp_head is not None else None
        return BertPretrainingOutput(mlm_logits, nsp_logits)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a Hugging Face folder: transformers' `BertForPreTraining`, or `BertForMaskedLM` without NSP."""
        architecture = "BertForMaskedLM" if self.nsp_head is None else "BertForPreTraining"
        write_folder(Path(folder), self, asdict(self.config), BERT, architecture=architecture)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "BertPretrainingModel":
        """Read a folder as `BertModel.from_pretrained` does; `next_sentence` is whether it holds that head."""
        source = ModelFolder(Path(folder), BERT)
        source.require_mlm_head()
        return source.load(lambda: cls(BertConfig(**source.shape), source.has("cls.seq_relationship.")))
