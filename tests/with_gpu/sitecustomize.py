"""Gives the pretended GPU to every worker that starts with this folder on its PYTHONPATH.

Python imports this module by its name.
"""

import sys
from pathlib import Path

if "harness.worker" in sys.orig_argv:
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    import pretended

    for owner, name, value in pretended.told(pretended.Gpu(pretended.H200)):
        setattr(owner, name, value)
    sys.modules["pynvml"] = pretended.nvml(pretended.IDLE)
    pretended.OnTheCpu([]).__enter__()
