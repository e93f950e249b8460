"""Generators for inference: recorded once, folded, packed and run as one flat list of calls; see docs/inference.md."""

from gankern.inference.generator import CompiledGenerator, compile_generator

__all__ = ["CompiledGenerator", "compile_generator"]
