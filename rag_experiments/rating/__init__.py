"""Answers rated by people: a blinded sheet, a page to rate in, statistics, corrections."""
