"""Broken parts, each with one realistic fault and the one check that is meant for it."""
