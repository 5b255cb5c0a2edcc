"""The report of a comparison: a leaderboard, figures, one self-contained page, and DVC's metrics and plots.

    python -m flows.report [--params FILE] [--out DIR] [--show]

- `__main__`: the command;
- `build`: the stage: reads the results, writes `<out>/report/`;
- `show`: the last leaderboard, and where to look next;
- `rows`: each method over its seeds, as means and intervals; `standing`: which is better, and the ranks;
- `summary`: all rows; `headline`: what may be said of them in a sentence; `limits`: the best method under each limit;
- `leaderboard`: the table in Markdown and as an artifact; `words`: numbers as people read them;
- `page`: the HTML page, `report.html` and its `parts/` filled in; `board`: what its script ranks by; `made`: when it
  was made, and by which command; `steps`: what to do next, on the page and in the terminal;
- `classes`: final models class by class;
- `figures`: the figures, with `heat` (matrices) and `costs`, made of `drawing` (axes and panels), `labels` (names
  beside lines and points) and `looks` (each method's colour, marker and line).
"""
