"""Memory of one device and disk, in bytes: what the dry run, a plan and its checks print.

Training keeps weight, gradient and two moments of each parameter in fp32, 16 bytes (Rajbhandari et
al. 2020, 1910.02054, section 3.1 counts as many in mixed precision); a frozen weight takes 4.
Activations come on top. "Memory" always means all of that for the rows that pass at once, each as
long as the context. A record's peak_memory_bytes is what the process held, libraries included.
"""

from scaling.schema.shape import Shape

STATE_BYTES = 16  # Bytes a trained parameter: weight, gradient and two moments in fp32.
WEIGHT_BYTES = 4  # Bytes a frozen parameter in fp32.
QUANTISED_BYTES = 0.56  # Bytes a parameter in NF4: 4 bits, and a scale of 32 bits for 64 of them.
# Bytes a parameter of a checkpoint (weight and moments) while the next one is written beside it,
# and of the final weights.
CHECKPOINT_BYTES, FINAL_BYTES = 24, 4
LATER = ("sft", "reward", "ppo")
# Logits at once in bf16: chunks of 256 MB, their softmax and its copy (scaling.model.loss).
LOSS_BYTES = 0.75 * 2**30
BF16, FP32 = 2, 4  # bytes


def training_memory_bytes(
    shape: Shape,
    rows: int,
    *,
    precision: str = "fp32",
    ranks: int = 1,
    checkpointing: bool = False,
) -> float:
    """Return the bytes that one device needs to pretrain.

    shape: the model
    rows: sequences of the whole context that go through it at once
    precision: fp32, or bf16 products on fp32 weights: attention then keeps no scores (Dao et al.
        2022, 2205.14135), the loss no logits, and the backward pass a bf16 copy of each weight
    ranks: devices that weights, gradients and moments are divided among
    checkpointing: whether activations are computed again in the backward pass
    """
    state = STATE_BYTES * shape.params.total / ranks
    if precision != "bf16":
        return state + activation_bytes(shape, rows, checkpointing=checkpointing)
    outside = shape.params.total - shape.n_layer * (shape.layer_matrices + shape.layer_vectors)
    layer = shape.layer_matrices + shape.layer_vectors
    copied = outside + layer if checkpointing else shape.params.total
    copies = BF16 * copied
    # a sharded layer is whole, with its gradient, while it computes, and the next one is fetched
    gathered = 2 * FP32 * (outside + 2 * layer) if ranks > 1 else 0
    tokens = rows * shape.context
    wide = 3 * shape.d_ff
    if shape.n_experts:
        wide = (2 * shape.d_model + 3 * shape.d_expert) * (shape.top_k + shape.n_shared_experts)
    per_layer = BF16 * (14 * shape.d_model + wide)  # bytes a token, counts of Shape.training_bytes
    recomputed_bytes = FP32 * shape.d_model * shape.n_layer + per_layer if checkpointing else 0
    activations = tokens * (recomputed_bytes or per_layer * shape.n_layer)
    return state + copies + gathered + activations + LOSS_BYTES


def activation_bytes(shape: Shape, rows: int, *, checkpointing: bool = False) -> float:
    """Return the bytes of activations of rows in fp32, attention scores and logits included."""
    tokens = rows * shape.context
    activations = shape.training_bytes(tokens) - shape.training_bytes(0)
    if not checkpointing:
        return activations
    head = FP32 * tokens * 3 * shape.vocab_size
    inputs = FP32 * tokens * shape.d_model * shape.n_layer
    return head + inputs + (activations - head) / shape.n_layer


def stage_memory_bytes(
    params: float, stage: str, *, method: str = "full", critic: bool = True, ranks: int = 1
) -> float:
    """Return the bytes of weights, gradients and moments that one device holds in a stage.

    params: all parameters of the model, embeddings included
    stage: pretrain, sft, reward or ppo; the later ones run on one device
    method: full, lora or qlora, of sft; adapters are some percent and not counted
    critic: whether PPO trains a critic beside the policy
    ranks: devices that weights, gradients and moments of pretraining are divided among
    """
    if stage == "pretrain":
        return STATE_BYTES * params / ranks
    if stage == "sft":
        return {"full": STATE_BYTES, "lora": WEIGHT_BYTES, "qlora": QUANTISED_BYTES}[
            method
        ] * params
    if stage == "reward":  # the reward model, and the fine-tuned model that it starts from
        return (STATE_BYTES + WEIGHT_BYTES) * params
    # policy and reference, and beside the frozen reward model a critic, trained or not
    n_trained = 2 if critic else 1
    return (n_trained * STATE_BYTES + (4 - n_trained) * WEIGHT_BYTES) * params


def stage_disk_bytes(params: float, stage: str) -> float:
    """Return the bytes of disk that a stage takes at most: checkpoints and final weights.

    params: all parameters of the model, embeddings included
    stage: pretrain, sft, reward or ppo
    """
    models = 2 if stage == "ppo" else 1  # PPO's checkpoint holds the critic too
    return (models * CHECKPOINT_BYTES + FINAL_BYTES) * params
