"""ModernBERT, as in "Smarter, Better, Faster, Longer" (arXiv:2412.13663), top to bottom.

What differs from BERT: blocks normalise their input and not their output, no
layer has a bias, positions turn queries and keys instead of being added, the
feed-forward layer is gated, and most layers see only the tokens nearby. There are
no segments and no next sentences.

Inside, a batch is always packed. Letters, as in `bert.py`: B rows of L places, T
tokens, M masked tokens, R rows of Q queries, D hidden, F intermediate, H heads, K
head_dim, V vocabulary.
"""

from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bertsmith.errors import require
from bertsmith.model.attention import attend, prepare, project
from bertsmith.model.check import check_shape
from bertsmith.model.dropout import Dropout
from bertsmith.model.first_weights import initialize
from bertsmith.model.folder import ModelFolder, write_folder
from bertsmith.model.heads import MaskedLanguageHead, activation
from bertsmith.model.modernbert_folder import MODERNBERT
from bertsmith.model.output import BertOutput, BertPretrainingOutput
from bertsmith.model.packed import Packed, pick, place_in_sequence
from bertsmith.model.padded import encode_padded
from bertsmith.model.rotary import Reach, rotate, rotation


@dataclass(frozen=True, kw_only=True, slots=True)
class ModernBertConfig:
    """Shape of the model. Field names and defaults are those of ModernBERT-base and of its config.json."""

    model_type: ClassVar = "modernbert"

    vocab_size: int = 50368
    """Rows in the word embedding (V). Must equal the tokenizer's size."""

    hidden_size: int = 768
    """Width of the residual stream (D)."""

    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    """Heads per block (H). Must divide `hidden_size`, evenly by two."""

    intermediate_size: int = 1152
    """Width inside the feed-forward layer, after the gate (F)."""

    hidden_activation: str = "gelu"
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    """Of the attention weights, and of what attention adds to the residual stream."""

    mlp_dropout: float = 0.0
    """Inside the feed-forward layer, after the gate."""

    max_position_embeddings: int = 8192
    """Longest sequence, in tokens."""

    global_attn_every_n_layers: int = 3
    """The first layer and then each n-th sees the whole sequence."""

    local_attention: int = 128
    """Window of the other layers: half of it on each side, in tokens."""

    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    """Bases of the wavelengths of positions, in the layers that see the whole sequence and in the others."""

    norm_eps: float = 1e-5
    initializer_range: float = 0.02
    initializer_cutoff_factor: float = 2.0
    """Sigma of the initial weights, and how many sigma they may lie from 0."""

    pad_token_id: int | None = 50283
    """A token whose embedding learns nothing from being read, as in transformers. None: there is no such token."""

    cls_token_id: int | None = 50281
    sep_token_id: int | None = 50282
    mask_token_id: int | None = 50284
    """These three are not read here, but said in config.json, where others look for them."""

    def __post_init__(self) -> None:
        check_shape(self)
        activation(self.hidden_activation, "hidden_activation")
        heads, width = self.num_attention_heads, self.hidden_size
        even = width // heads % 2 == 0
        require(even, f"num_attention_heads is {heads}; give one that cuts hidden_size, {width}, into even parts")

    def window(self, layer: int) -> int | None:
        """Farthest place that a token sees on each side; None: all of its sequence."""
        return None if layer % self.global_attn_every_n_layers == 0 else self.local_attention // 2


def norm_of(config: ModernBertConfig) -> nn.LayerNorm:
    """LayerNorm without bias, float [..., D]."""
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=False)


class ModernBertEmbeddings(nn.Module):
    """What a token is. Where it stands is seen in attention alone."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.norm = norm_of(config)
        self.dropout = Dropout(config.embedding_dropout)

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64 [T] -> float [T, D]."""
        return self.dropout(self.norm(self.word_embeddings(input_ids)))  # type: ignore[no-any-return]


class ModernBertSelfAttention(nn.Module):
    """Bidirectional multi-head self-attention with turned queries and keys."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.attention_dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.dropout = Dropout(config.attention_dropout)

    def forward(self, hidden: Tensor, reach: Reach) -> Tensor:
        """Let every token that asks gather from those it sees: float [T, D] -> float [T, D] or [R x Q, D]."""
        queries = reach.packed.queries
        q, k, v = project(self.qkv, hidden, queries, self.num_heads)
        q, k = rotate(q, reach.turn.at(queries)), rotate(k, reach.turn)
        gathered = attend(q, k, v, reach.packed, dropout_p=self.dropout_prob if self.training else 0.0)
        mixed: Tensor = self.dropout(self.out(gathered.flatten(1)))
        return mixed


class ModernBertBlock(nn.Module):
    """Attention, then a gated feed-forward layer (GeGLU, arXiv:2002.05202); each reads its input normalised."""

    def __init__(self, config: ModernBertConfig, layer: int) -> None:
        super().__init__()
        self.window = config.window(layer)
        self.attention_norm = norm_of(config) if layer > 0 else nn.Identity()  # the embeddings are normalised already
        self.attention = ModernBertSelfAttention(config)
        self.mlp_norm = norm_of(config)
        self.intermediate = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.activation = activation(config.hidden_activation)
        self.dropout = Dropout(config.mlp_dropout)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor, reach: Reach) -> Tensor:
        """float [T, D] -> float [T, D], or [R x Q, D] where only some tokens ask."""
        hidden = pick(hidden, reach.packed.queries) + self.attention(self.attention_norm(hidden), reach)
        values, gate = self.intermediate(self.mlp_norm(hidden)).chunk(2, -1)  # each [T, F]
        output: Tensor = hidden + self.output(self.dropout(self.activation(values) * gate))
        return output


class ModernBertModel(nn.Module):
    """The encoder."""

    def __init__(self, config: ModernBertConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.embeddings = ModernBertEmbeddings(config)
        self.blocks = nn.ModuleList(ModernBertBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.final_norm = norm_of(config)
        self._initialize(generator)

    def _initialize(self, generator: torch.Generator | None) -> None:
        """Draw the weights as Megatron does: the more layers add to the residual stream, the smaller what they add.

        The numbers are those of transformers' ModernBERT (arXiv:2412.13663, "Weight Initialization and Tiling").
        """
        std, cutoff = self.config.initializer_range, self.config.initializer_cutoff_factor
        initialize(self, std, generator, cutoff=cutoff)
        for name, part in self.blocks.named_modules():
            if name.endswith((".out", ".output")):
                initialize(part, std / sqrt(2 * len(self.blocks)), generator, cutoff=cutoff)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,  # noqa: ARG002
        position_ids: Tensor | None = None,
        *,
        packed: Packed | None = None,
        queries: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> BertOutput:
        """Encode a padded batch, or a packed one when `packed` is given.

        Args:
            input_ids: int64 [B, L], or [T] when packed.
            attention_mask: [B, L], not 0 at real tokens; None: all are real. Only these are computed, and
                only these count for the window of a local layer.
            token_type_ids: Not looked at: there are no segments. Here so that all models are called alike.
            position_ids: int64, as `input_ids`. None: counted from 0 in each sequence, or in each padded row.
            packed: Where the sequences of a packed batch lie.
            queries: Places whose output is asked for, as in `BertModel.forward`.
            output_hidden_states: Return the hidden states of all layers, the last one normalised.

        Raises:
            UserError: A padded row is longer than `max_position_embeddings`, or mask or queries do not fit the input.
        """
        if packed is None:

            def encode(tokens: Tensor, positions: Tensor, **more: Any) -> BertOutput:
                return self.forward(tokens, None, None, positions, **more, output_hidden_states=output_hidden_states)

            longest = self.config.max_position_embeddings
            return encode_padded(encode, (input_ids,), position_ids, attention_mask, queries=queries, longest=longest)
        require(attention_mask is None, "attention_mask is given with packed, which has no padding; leave it out")
        if position_ids is None:
            position_ids = place_in_sequence(packed.cu_seqlens, len(input_ids))
        hidden = self.embeddings(input_ids)
        states = [hidden] if output_hidden_states else None
        far = self._reach(packed, hidden, position_ids, self.config.global_rope_theta, window=None)
        near = self._reach(packed, hidden, position_ids, self.config.local_rope_theta, window=self.config.window(1))
        for number, block in enumerate(self.blocks, 1):
            reach = far if block.window is None else near
            hidden = block(hidden, reach.asked_by(queries) if number == len(self.blocks) else reach)
            if states is not None:
                states.append(hidden)
        hidden = self.final_norm(hidden)
        return BertOutput(hidden, None, None if states is None else (*states[:-1], hidden))

    def _reach(
        self, packed: Packed, hidden: Tensor, position_ids: Tensor, theta: float, *, window: int | None
    ) -> Reach:
        """Work out once what all layers of one kind need."""
        heads, dropout_p = self.config.num_attention_heads, self.config.attention_dropout if self.training else 0.0
        packed = prepare(packed, hidden, num_heads=heads, dropout_p=dropout_p, window=window)
        return Reach(packed, rotation(position_ids, self.config.hidden_size // heads, theta))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a Hugging Face folder that transformers' `ModernBertModel` reads."""
        write_folder(Path(folder), self, asdict(self.config), MODERNBERT, architecture="ModernBertModel")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "ModernBertModel":
        """Read the encoder from a Hugging Face folder of any ModernBERT, as `BertModel.from_pretrained` does."""
        source = ModelFolder(Path(folder), MODERNBERT)
        return source.load(lambda: cls(ModernBertConfig(**source.shape)), encoder_only=True)


class ModernBertPretrainingModel(nn.Module):
    """The encoder and the head for masked words, the only task that an architecture of transformers has heads for."""

    def __init__(
        self, config: ModernBertConfig, next_sentence: bool = False, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        require(not next_sentence, "ModernBERT has no head for next sentences; train it with masked words alone")
        self.config = config
        self.bert = ModernBertModel(config, generator=generator)
        width, std = config.hidden_size, config.initializer_range / sqrt(2 * config.num_hidden_layers)
        self.mlm_head = MaskedLanguageHead(width, config.vocab_size, "gelu", config.norm_eps, inner_bias=False)
        self.nsp_head = None
        initialize(self.mlm_head, std, generator, cutoff=config.initializer_cutoff_factor)

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
        """Guess the masked words of a padded batch or a packed one.

        All is as in `ModernBertModel.forward`, and `masked_index` as in `BertPretrainingModel.forward`.
        """
        queries = masked_index if masked_index is not None and masked_index.dim() == 2 else None
        output = self.bert(input_ids, attention_mask, token_type_ids, position_ids, packed=packed, queries=queries)
        hidden = output.sequence_output
        if masked_index is not None and queries is None:
            hidden = hidden.flatten(0, -2).index_select(0, masked_index)
        return BertPretrainingOutput(self.mlm_head(hidden, self.bert.embeddings.word_embeddings.weight), None)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a Hugging Face folder that transformers' `ModernBertForMaskedLM` reads."""
        write_folder(Path(folder), self, asdict(self.config), MODERNBERT, architecture="ModernBertForMaskedLM")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "ModernBertPretrainingModel":
        """Read a folder as `ModernBertModel.from_pretrained` does, with the head for masked words."""
        source = ModelFolder(Path(folder), MODERNBERT)
        source.require_mlm_head()
        return source.load(lambda: cls(ModernBertConfig(**source.shape)))
