"""Every file that the harness writes or reads back: baselines, recordings, run folders."""
