"""Looks everywhere for something that must not be there: files, Redis, processes, and texts collected elsewhere."""

import base64
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis
from deployment import children_of
from psycopg import sql
from support.kafka_messages import messages_at


@dataclass(frozen=True)
class Trace:
    where: str
    what: str


class Search:
    """`needles` by name; each is looked for as it is, in base64 and in hex."""

    def __init__(self, needles: dict[str, str | bytes]) -> None:
        self._needles = {
            name: spellings(each.encode() if isinstance(each, str) else each) for name, each in needles.items()
        }

    def within(self, where: str, content: bytes) -> list[Trace]:
        return [
            Trace(where, name) for name, each in self._needles.items() if any(spelling in content for spelling in each)
        ]

    def files(self, directory: Path, besides: Iterable[Path] = ()) -> list[Trace]:
        """Their raw bytes, and their names."""
        found: list[Trace] = []
        for path in sorted(directory.rglob("*")):
            found += self.within(f"name of {path}", path.name.encode())
            if path in besides:
                continue
            try:
                if stat.S_ISREG(path.lstat().st_mode):
                    found += self.within(str(path), path.read_bytes())
            except FileNotFoundError:
                continue  # it has gone meanwhile
        return found

    def redis(self, client: redis.Redis) -> list[Trace]:
        """Every key and value, compressed ones unpacked."""
        found: list[Trace] = []
        for key in client.scan_iter():
            found += self.within(f"Redis key {key!r}", key)
            for value in values_of(client, key):
                found += self.within(f"Redis {key!r}", value) + self.within(f"Redis {key!r}", unpacked(value))
        return found

    def kafka(self, address: str) -> list[Trace]:
        """Every message that is still there."""
        return [trace for where, content in parts_of_messages(address) for trace in self.within(where, content)]

    def postgresql(self, url: str) -> list[Trace]:
        """Every row of every table."""
        found: list[Trace] = []
        with psycopg.connect(url) as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            for (table,) in tables:
                with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as rows:
                    found += [trace for row in rows for trace in self.within(f"table {table}", bytes(row))]
        return found

    def processes(self, *pids: int) -> list[Trace]:
        """Arguments and environments of these processes and of all below them."""
        found: list[Trace] = []
        for pid in with_descendants(pids):
            for what in ("cmdline", "environ"):
                try:
                    found += self.within(f"{what} of {pid}", Path(f"/proc/{pid}/{what}").read_bytes())
                except (FileNotFoundError, ProcessLookupError):
                    continue
        return found


def spellings(needle: bytes) -> list[bytes]:
    # What stands before it shifts base64 by a third of a letter; what the ends depend on is left out.
    shifted = {
        encode(b"\0" * shift + needle)[4 if shift else 0 : -4]
        for shift in range(3)
        for encode in (base64.b64encode, base64.urlsafe_b64encode)
    }
    return [needle, needle.hex().encode(), *shifted]


def values_of(client: redis.Redis, key: bytes) -> Iterator[bytes]:
    # redis-py says `Awaitable | …` of everything.
    any_client: Any = client
    match client.type(key):
        case b"string":
            yield any_client.get(key) or b""
        case b"hash":
            for name, value in any_client.hgetall(key).items():
                yield name
                yield value
        case b"list":
            yield from any_client.lrange(key, 0, -1)
        case b"set":
            yield from any_client.smembers(key)
        case b"zset":
            yield from any_client.zrange(key, 0, -1)
        case b"stream":
            for _, fields in any_client.xrange(key):
                yield from fields
                yield from fields.values()


def parts_of_messages(address: str) -> Iterator[tuple[str, bytes]]:
    """Where something is, and what."""
    for each in messages_at(address, lambda topic: not topic.startswith("__")):
        parts = [("key", each.key()), ("value", each.value())]
        parts += [("header", value) for _, value in each.headers() or ()]
        for name, part in parts:
            yield f"{name} in {each.topic()}", part.encode() if isinstance(part, str) else part or b""


def unpacked(value: bytes) -> bytes:
    try:
        return zlib.decompress(value)
    except zlib.error:
        return b""


def with_descendants(pids: Iterable[int]) -> list[int]:
    found = []
    for pid in pids:
        found.append(pid)
        try:
            found += with_descendants(children_of(pid))
        except FileNotFoundError:
            continue
    return found
