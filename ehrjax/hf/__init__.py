"""L2: weights in and out. Checkpoints of HuggingFace and PyTorch as runs of ehrjax, and back; one family a file."""
