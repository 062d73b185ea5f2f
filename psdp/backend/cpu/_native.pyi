"""What native/module.c offers. Sizes are checked there; shapes are the caller's business."""

from psdp.params import Array

def set_threads(threads: int, /) -> None: ...
def set_alone(alone: bool, /) -> None: ...
def set_sgemm(address: int, /) -> None: ...
def add_product(
    a: Array, b: Array, out: Array, m: int, n: int, k: int, transposed: int, /
) -> None: ...
def product(
    a: Array,
    b: Array,
    bias: Array | None,
    out: Array,
    m: int,
    n: int,
    k: int,
    transposed: int,
    add: bool,
    bf16: bool,
    /,
) -> None: ...
def product_support() -> int: ...
def are_fast() -> bool: ...
def add_bias(y: Array, bias: Array, rows: int, width: int, /) -> None: ...
def add_column_sums(x: Array, sums: Array, rows: int, width: int, /) -> None: ...
def gelu(x: Array, y: Array, /) -> None: ...
def gelu_backward(x: Array, dy: Array, /) -> None: ...
def gelu_erf(x: Array, y: Array, /) -> None: ...
def gelu_erf_backward(x: Array, dy: Array, /) -> None: ...
def relu2(x: Array, y: Array, /) -> None: ...
def relu2_backward(x: Array, dy: Array, /) -> None: ...
def swiglu(x: Array, y: Array, rows: int, width: int, /) -> None: ...
def swiglu_backward(x: Array, dy: Array, rows: int, width: int, /) -> None: ...
def geglu(x: Array, y: Array, rows: int, width: int, /) -> None: ...
def geglu_backward(x: Array, dy: Array, rows: int, width: int, /) -> None: ...
def layer_norm(
    x: Array,
    gain: Array,
    bias: Array | None,
    eps: float,
    normal: Array,
    rstd: Array,
    y: Array,
    rows: int,
    width: int,
    /,
) -> None: ...
def layer_norm_backward(
    dy: Array,
    gain: Array,
    normal: Array,
    rstd: Array,
    dx: Array,
    dgain: Array,
    dbias: Array | None,
    rows: int,
    width: int,
    /,
) -> None: ...
def rms_norm(
    x: Array,
    gain: Array,
    eps: float,
    normal: Array,
    rstd: Array,
    y: Array,
    rows: int,
    width: int,
    /,
) -> None: ...
def rms_norm_backward(
    dy: Array,
    gain: Array,
    normal: Array,
    rstd: Array,
    dx: Array,
    dgain: Array,
    rows: int,
    width: int,
    /,
) -> None: ...
def cross_entropy(
    logits: Array,
    targets: Array,
    scale: float,
    smoothing: float,
    losses: Array,
    rows: int,
    width: int,
    /,
) -> None: ...
def rotate(
    qkv: Array,
    cos: Array,
    sin: Array,
    rows: int,
    length: int,
    heads: int,
    half: int,
    sign: float,
    /,
) -> None: ...
def repeat_heads(
    packed: Array, qkv: Array, rows: int, heads: int, kv_heads: int, size: int, /
) -> None: ...
def sum_heads(
    dqkv: Array, dpacked: Array, rows: int, heads: int, kv_heads: int, size: int, /
) -> None: ...
def attention(
    qkv: Array,
    mask: Array | None,
    context: Array,
    logsumexp: Array,
    batch: int,
    heads: int,
    tokens: int,
    query_block: int,
    /,
) -> None: ...
def attention_backward(
    qkv: Array,
    mask: Array | None,
    context: Array,
    logsumexp: Array,
    dcontext: Array,
    dqkv: Array,
    batch: int,
    heads: int,
    tokens: int,
    query_block: int,
    /,
) -> None: ...
def mean(out: Array, vectors: list[Array], shares: list[float], bf16: bool, /) -> None: ...
def round_bf16(x: Array, out: Array, /) -> None: ...
def adam(
    weights: Array,
    gradient: Array,
    mean: Array,
    mean_square: Array,
    beta1: float,
    rate1: float,
    beta2: float,
    rate2: float,
    scale: float,
    step_size: float,
    eps: float,
    shrink: float,
    /,
) -> None: ...
