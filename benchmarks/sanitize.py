"""Every GPU kernel once, small: the program that compute-sanitizer watches.

``compute-sanitizer --tool memcheck python -m benchmarks.sanitize``. Inputs are made on the CPU and nothing is compared,
so that almost every kernel that is launched is one of ours. Set PYTORCH_NO_CUDA_MEMORY_CACHING=1, or accesses into
PyTorch's pool look valid.
"""

from __future__ import annotations

import sys

import torch

from gankern._dispatch import OPS, use_backend
from gankern.bench.rows import tensors


def main() -> int:
    """Run forward and backward of all 'check' samples on every GPU backend; 0, or 3 without a GPU."""
    if not torch.cuda.is_available():
        print("sanitize: no GPU", file=sys.stderr)
        return 3
    ran = 0
    for spec in OPS.values():
        for sample in spec.samples:
            if "check" not in sample.tags:
                continue
            for backend in ("cuda", "triton"):
                for dtype in (torch.float32, torch.bfloat16):
                    for layout in sample.layouts:
                        kwargs = sample.inputs(dtype, layout, "cuda")
                        row = spec.table.row(backend) if spec.table is not None else None
                        if row is None or row.can_run(*spec.prepare(**kwargs)) is not None:
                            continue
                        with use_backend(backend):
                            outputs = tensors(spec.public(**kwargs))
                            leaves = [kwargs[name] for name in sample.differentiable]
                            torch.autograd.grad(outputs, leaves, [y.detach() for y in outputs], allow_unused=True)
                        torch.cuda.synchronize()
                        ran += 1
    print(f"sanitize: {ran} cases ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
