"""The pytest plugin: every case of a scenario file is a test item."""
