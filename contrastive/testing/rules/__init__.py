"""The rules that the conformance kit checks, by kind of part."""
