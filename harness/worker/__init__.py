"""The worker's half: a case comes in as JSON, a recording goes out as a folder.

It runs in the environment under test. It imports torch, diffusers, transformers, huggingface_hub,
numpy, safetensors and the standard library, and nothing of the harness outside this folder, so that
it also runs in an environment of another age. Its syntax stays at Python 3.9.
"""
