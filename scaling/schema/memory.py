"""Least memory and disk of the stages of a final run, in bytes, from the number of parameters.

Training keeps weight, gradient and two moments of each parameter in fp32, 16 bytes (Rajbhandari et
al. 2020, 1910.02054, section 3.1 counts as many in mixed precision); a frozen weight takes 4.
Activations come on top: these are lower bounds.
"""

STATE_BYTES = 16  # Bytes a trained parameter: weight, gradient and two moments in fp32.
WEIGHT_BYTES = 4  # Bytes a frozen parameter in fp32.
QUANTISED_BYTES = 0.56  # Bytes a parameter in NF4: 4 bits, and a scale of 32 bits for 64 of them.
# Bytes a parameter of a checkpoint (weight and moments) while the next one is written beside it,
# and of the final weights.
CHECKPOINT_BYTES, FINAL_BYTES = 24, 4
LATER = ("sft", "reward", "ppo")


def stage_memory_bytes(
    params: float, stage: str, *, method: str = "full", critic: bool = True, ranks: int = 1
) -> float:
    """Return the least bytes that one device holds in a stage.

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
    trained = 2 if critic else 1
    return (trained * STATE_BYTES + (4 - trained) * WEIGHT_BYTES) * params


def stage_disk_bytes(params: float, stage: str) -> float:
    """Return the bytes of disk that a stage takes at most: checkpoints and final weights.

    params: all parameters of the model, embeddings included
    stage: pretrain, sft, reward or ppo
    """
    models = 2 if stage == "ppo" else 1  # PPO's checkpoint holds the critic too
    return (models * CHECKPOINT_BYTES + FINAL_BYTES) * params
