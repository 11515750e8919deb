"""Texts that try to leave the place where a report shows them."""

from __future__ import annotations

HOSTILE = {
    "ansi": "a\x1b[2J\x1b]0;owned\x07b",
    "one-byte-sequence": "a\x9b2Jb",
    "bidirectional": "a\u202egnp.exe\u2066\u2069\u061c\u200fb",
    "bars-and-backticks": "a | b `c` ``` ~~~ | d",
    "end-of-cdata": "]]></failure><injected/>",
    "markup": "<script>alert(1)</script> &lt; \"quoted\" 'single'",
    "nul": "a\x00b",
    "lone-surrogates": "a\ud800b\udfff",
    "not-in-xml": "a\uffffb\x0bc",
    "line-breaks": "a\r\n::error file=x,line=1::owned\r## heading\u2028::warning::y\n| cell |",
    "commands": "::set-output name=x::y ##[group]z ::stop-commands::t",
    "percent": "100%25 %0A%0D%3A%2C",
    "emoji-and-scripts": "Gr\u00f6\u00dfe \U0001f469\u200d\U0001f52c \u6570\u5b57",
}
