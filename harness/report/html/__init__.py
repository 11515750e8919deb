"""Runs as one HTML file that needs no network: the page, its charts, pictures and views."""
