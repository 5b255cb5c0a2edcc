"""A campaign of faults: what a run is put through, and whether it holds (docs/faults.md)."""
