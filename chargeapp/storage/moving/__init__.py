"""Moving a live store from SQLite to PostgreSQL without losing a row; docs/moving-to-postgresql.md tells how.

1. Triggers in the SQLite file note the key of every row that changes from now on (`source.begin`).
2. What was there is copied in pages while everything runs, then what changed meanwhile, again and again. Every row is
   read back and compared before it counts; PostgreSQL keeps, in the same transactions, how far that came (`target`).
3. In one write transaction on SQLite, so while nobody else can write: the last changes are copied and committed, and
   then the file's own commit says where the store went (`source.close_for_good`). That commit is the switch. Before it
   SQLite has the truth, and whatever dies leaves it as it was. After it PostgreSQL has, and no transaction can begin on
   the file any more: processes that find that out go on with PostgreSQL (`Database`), tickets and all.

A tool that was killed is started again: before the switch it goes on where it was, after it there is only tidying up.
"""
