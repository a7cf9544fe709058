"""The bench: how fast is chargeapp, beside queues that keep less, on one machine in one run?

    programs     starts a program, waits until it listens, ends it and nothing else
    stubs        nginx as authorization service and as receiver of callbacks
    peers/       Celery, Dramatiq and bare Flask doing the same job; peers_venv installs what they need
    systems      chargeapp and its peers, each started alike
    load         as much as goes in (wrk), or so many a second; arrivals reads what came back
    saturation   one system under all that goes in, and its drain
    usage        CPU time and memory by kind of process
    history      a million finished requests, by SQL
    destinations twenty callers, one of them slow

One file for each measurement: saturated, latency, intake, growth, backlog, slow_destination, start. Each returns a
`result`: tables, targets and charts (`svg`). `report` writes them as Markdown, JSON or text, with the machine.
`plans` says how much of everything; `workbench` is what the measurements share.
"""
