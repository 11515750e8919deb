"""From two recordings to a word, and from many words to a release's. Runs nothing, prints nothing."""
