"""What runs the stages: plain calls, of which a Prefect server is told where there is one.

A stage is written once, as a plain function that is given an engine, and runs as one. Where a Prefect server is
configured (`PREFECT_API_URL`) it is told of the stage as a named and tagged flow run, and of the runs as task runs;
where none is, Prefect is not even imported.

- `plain`: the engine itself, for where there is no server;
- `with_prefect`: the same engine, telling a server; and which of the two is configured;
- `teller`: the queue of what the server is told, and the thread that sends it;
- `api`: the requests to Prefect's server, as its client makes them.
"""
