"""Generators compiled for inference beside the module, eager PyTorch, their convolutions alone, and onnxruntime.

``python -m benchmarks.inference [--families F,...] [--size family|PRESET] [--channel-base N] [--resolution N]
[--batch N,...] [--threads N] [--rounds N] [--cpu-time] [--out FILE.json]`` prints milliseconds, and ratios to the compiled
generator.

``--size tiny`` (the default) takes the small networks of ``gankern bench``'s model rows; a preset's name (``stylegan2-256``)
takes that preset, with ``--channel-base`` for half the width and ``--resolution`` for another size. ``--cpu-time`` with
``--threads 1`` measures the process' own time, which other processes disturb least.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from gankern._files import write_json
from gankern.bench.inference import CONTENDERS, measure
from gankern.bench.models import small_config
from gankern.models import FAMILIES, config_of


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__.splitlines()[0])
    parser.add_argument("--families", default=",".join(FAMILIES), help="names, with commas; with --size tiny")
    parser.add_argument("--size", default="tiny", help="'tiny', or a preset such as stylegan2-256")
    parser.add_argument("--channel-base", type=int, help="of a preset that has one: 16384 is half of StyleGAN2's width")
    parser.add_argument("--resolution", type=int, help="of a preset: another one than its own")
    parser.add_argument("--batch", default="1", help="numbers, with commas")
    parser.add_argument("--threads", type=int, help="default: PyTorch's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--cpu-time", action="store_true", help="time of the process in place of the clock on the wall")
    parser.add_argument("--out", type=Path, help="JSON")
    given = parser.parse_args(argv)
    if given.threads:
        torch.set_num_threads(given.threads)
    names = given.contenders.split(",")
    unknown = sorted({*names, "compiled"} - set(CONTENDERS))
    if unknown:
        parser.error(f"--contenders: no {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    asked = {"channel_base": given.channel_base, "resolution": given.resolution}
    changes = {name: value for name, value in asked.items() if value is not None}
    if changes and given.size == "tiny":
        parser.error("--channel-base and --resolution go with --size PRESET")
    configs = {}
    if given.size == "tiny":
        configs = {family: small_config(family) for family in given.families.split(",")}
    else:
        configs = {given.size: config_of(given.size).replace(**changes)}
    print(f"milliseconds, {torch.get_num_threads()} threads; in brackets: compiled over it")
    print(f"{'':16s} {'batch':>5s} " + " ".join(f"{name:>19s}" for name in names))
    rows = []
    for label, config in configs.items():
        for batch in map(int, given.batch.split(",")):
            found = measure(config, batch, given.rounds, names, given.cpu_time)
            cells = [f"{found[n]:10.3f} ({found['compiled'] / found[n]:5.2f})" if n in found else f"{'-':>19s}" for n in names]
            print(f"{label:16s} {batch:5d} " + " ".join(f"{cell:>19s}" for cell in cells), flush=True)
            rows.append({"network": label, "batch": batch, "threads": torch.get_num_threads(), "milliseconds": found})
    if given.out:
        write_json(given.out, rows)
        print(json.dumps({"written": str(given.out)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
