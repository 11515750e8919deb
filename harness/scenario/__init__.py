"""YAML files become scenarios and cases, with every mistake placed on its line."""
