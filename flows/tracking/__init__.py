"""What MLflow shows of the runs: a replica of our own result files.

The files of a run (one method with one seed) are the truth. A sync compares them with what was already sent and sends
the rest, so it can be repeated, interrupted or missed at will: a tracking server that is down, slow or gone costs no
training, and what it missed follows at the end of the run or with the next one.

In MLflow a run is one MLflow run, `ewc/seed-0`, with a nested MLflow run for each task, `ewc/seed-0/permutation-03`.
Metrics are stepped by the number of tasks learned, those of the selection by trial. The experiment's page, as it opens,
lists and charts the runs with the tasks folded away; `addresses.comparison_url` leads to a curated comparison. The
report is an MLflow run beside them.

- `settings`: where runs are shown, from the section `tracking` of params.yaml;
- `follower`: hands the runs of the train stage to the tracker, in a thread of its own;
- `tracker`: compares a run with what was sent, and sends the rest;
- `ledger`: what was sent where, in `<out>/.work/tracking.json`;
- `run_files`: what the files of a run say, as metrics, parameters and tables;
- `server`: the requests that are made of MLflow, each with a deadline;
- `database`: the embedded database, for where there is no server; `view`: the curated comparison;
- `datasets`: the prepared data of a run; `notes`: descriptions, sources and links to other pages;
- `reported`: the report as an MLflow run;
- `experiment`: what other parts of the pipeline ask of MLflow, or add to it;
- `addresses`: the commands and addresses that show it in a browser;
- `origin`: from which code and data results come, by git and DVC.

MLflow is imported only where there is something to send.
"""
