"""Small networks of the kinds that people write themselves, from scratch and without a library."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SequenceClassifier(nn.Module):
    """Tokens, a recurrent layer, a classifier of its last state; `cell` is nn.LSTM, nn.GRU or nn.RNN."""

    def __init__(self, cell: type[nn.RNNBase], **options: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.recurrent = cell(12, 16, batch_first=True, **options)
        width = options.get("proj_size") or 16
        self.head = nn.Linear(2 * width if options.get("bidirectional") else width, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        outputs, _ = self.recurrent(self.embedding(tokens))
        return self.head(outputs[:, -1])


class UNet(nn.Module):
    """Two levels down and up again, with skips that are concatenated and transposed convolutions."""

    def __init__(self, width: int = 8, channels: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.down1, self.down2 = self.pair(channels, width), self.pair(width, 2 * width)
        self.bottom = self.pair(2 * width, 4 * width)
        self.up2, self.up1 = (nn.ConvTranspose2d(2 * n, n, 2, stride=2) for n in (2 * width, width))
        self.merge2, self.merge1 = self.pair(4 * width, 2 * width), self.pair(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    @staticmethod
    def pair(inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for n in (inputs, outputs):
            layers += [nn.Conv2d(n, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        x = self.bottom(F.max_pool2d(b, 2))
        x = self.merge2(torch.cat([self.up2(x), b], 1))
        x = self.merge1(torch.cat([self.up1(x), a], 1))
        return self.head(x)


class GPTBlock(nn.Module):
    """Attention and a perceptron, each after its normalization and added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        # Each of (b, heads, t, c / heads).
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class TinyGPT(nn.Module):
    """A language model whose head is the token embedding, by function, or tied as a layer, or of its own."""

    def __init__(self, head: str, vocabulary: int = 24, width: int = 16, context: int = 12) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.1 * torch.randn(1, context, width))
        self.blocks = nn.ModuleList(GPTBlock(width, 2) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        if head != "function":
            self.head = nn.Linear(width, vocabulary, bias=False)
        if head == "tied":
            self.head.weight = self.tokens.weight
        self.head_kind = head

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions[:, : tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return F.linear(x, self.tokens.weight) if self.head_kind == "function" else self.head(x)


class EncoderDecoder(nn.Module):
    """torch's own transformer: encoder, decoder, cross-attention; on signals, so that all inputs are floats."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Linear(5, 16), nn.Linear(5, 16)
        self.transformer = nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.transformer(self.source(source), self.target(target)))


class Encoder(nn.Module):
    """A stack of torch's encoder layers over patches, whose fused path replaces them in eval mode without a graph."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.embed, self.token = nn.Linear(6, 16), nn.Parameter(torch.randn(1, 1, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=norm_first)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.head(self.encoder(x)[:, 0])


class CrossAttention(nn.Module):
    """Attention to keys and values of other widths, so that its three projections are parameters of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, kdim=6, vdim=10, add_bias_kv=True, batch_first=True)
        self.query, self.head = nn.Linear(5, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        found, _ = self.attention(self.query(x), keys, values)
        return self.head(found.mean(1))


class SelectiveStateSpace(nn.Module):
    """A block like Mamba's: a gated, selective linear recurrence whose state matrix is a parameter of its own."""

    def __init__(self, width: int = 12, state: int = 4) -> None:
        super().__init__()
        self.norm, self.enter = nn.LayerNorm(width), nn.Linear(width, 2 * width, bias=False)
        self.mix = nn.Conv1d(width, width, 3, groups=width, padding=2)
        self.select, self.rate = nn.Linear(width, 2 * state + 1, bias=False), nn.Linear(1, width)
        self.a_log = nn.Parameter(torch.arange(1.0, state + 1).repeat(width, 1).log())  # (width, state)
        self.skip, self.leave = nn.Parameter(torch.ones(width)), nn.Linear(width, width, bias=False)
        self.state = state

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.enter(self.norm(x)).chunk(2, -1)
        u = F.silu(self.mix(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        rate, b, c = self.select(u).split([1, self.state, self.state], -1)
        rate = F.softplus(self.rate(rate))
        decay = torch.exp(rate[..., None] * -self.a_log.exp())  # (batch, time, width, state)
        h, outputs = torch.zeros_like(decay[:, 0]), []
        for t in range(x.shape[1]):
            h = decay[:, t] * h + (rate[:, t] * u[:, t])[..., None] * b[:, t, None]
            outputs.append((h * c[:, t, None]).sum(-1))
        y = torch.stack(outputs, 1) + self.skip * u
        return x + self.leave(y * F.silu(gate))


class StateSpaceClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.blocks = nn.Sequential(SelectiveStateSpace(), SelectiveStateSpace())
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(tokens))).mean(1))


class GraphConvolution(nn.Module):
    """Neighbours' mean times a weight that is the module's own parameter, used by a product and not by a layer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ (nodes @ self.weight) + self.bias


class GraphNet(nn.Module):
    """Two graph convolutions and a readout of a batch of graphs with as many nodes each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.readout = GraphConvolution(5, 12), GraphConvolution(12, 12), nn.Linear(12, 3)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        adjacency = adjacency / adjacency.sum(-1, keepdim=True)
        x = torch.relu(self.conv1(nodes, adjacency))
        return self.readout(torch.relu(self.conv2(x, adjacency)).mean(1))


class MixerBlock(nn.Module):
    """Mixes positions by a transposed linear layer, then channels."""

    def __init__(self, positions: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across, self.within = nn.Linear(positions, positions), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.gelu(self.across(self.norm1(x).transpose(1, 2))).transpose(1, 2)
        return x + F.gelu(self.within(self.norm2(x)))


class Autoencoder(nn.Module):
    """Three-dimensional volumes, whose decoder uses the encoder's weights transposed, by function."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv3d(1, 6, 3, stride=2, padding=1)
        self.code, self.position = nn.Linear(6, 5), nn.Parameter(torch.randn(6, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.down(x) + self.position)
        z = self.code(h.movedim(1, -1))
        h = torch.tanh(F.linear(z, self.code.weight.t())).movedim(-1, 1)
        return F.conv_transpose3d(h, self.down.weight, stride=2, padding=1, output_padding=1)
