"""The report of a comparison: a leaderboard, figures, one self-contained page, and DVC's metrics and plots.

    python -m flows.report [--params FILE] [--out DIR] [--show]

- `__main__`: the command;
- `build`: the stage: reads the results, writes `<out>/report/`;
- `show`: the last leaderboard, and where to look next;
- `rows`: each method over its seeds, as means and intervals;
- `summary`: all rows, and the sentence that sums them up;
- `leaderboard`: the table in Markdown and as an artifact; `words`: numbers as people read them;
- `page`: the HTML page, `report.html` filled in;
- `figures`: the figures, made of `drawing` (axes and panels), `labels` (names beside lines and points) and `looks`
  (each method's colour, marker and line).
"""
