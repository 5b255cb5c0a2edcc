"""One file per benchmark: a function `tasks(options, raw)` that yields `RawTask`s and a `FORMAT`."""
