"""How nights are judged and shown; `flows.nightly` is the command that runs them.

- `history`: the nights that have ended, by their `night.json`, and what is kept of older ones;
- `verdict`: tonight against the last good night: what got worse, what better, and what is noise;
- `page`: the morning's page, `morning.html` filled in, and the same in short.
"""
