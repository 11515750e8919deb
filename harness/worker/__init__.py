"""The half that runs inside the measured environment: a case (JSON) goes in, a recording (folder) comes out.

It imports torch, diffusers, transformers, huggingface_hub, numpy, safetensors and the standard library, and nothing else
of the harness, so that it also runs in an environment of another age. Its syntax stays at Python 3.9.
"""
