"""The drill: does chargeapp keep its promise while its processes die?

    stores      the database: an SQLite file, or a database in PostgreSQL
    brokers     what carries jobs: the Redis of the deployment, or Kafka
    deployment  starts `chargeapp up` with a data directory of its own, and knows its processes
    load        posts requests at a fixed rate, logs every answer
    receiver    takes the callbacks, answers some of them badly, logs each
    chaos       kills and stops processes, empties and kills the broker, restarts PostgreSQL and cuts connections to it
    failpoints  makes processes die, raise or hang at the worst moments
    records     what the three of them noted, and the database, joined
    oracle      what must hold, judged on those records
    report      all of it as JSON and Markdown

`run` puts them together; `plans` says how much of each.
"""
