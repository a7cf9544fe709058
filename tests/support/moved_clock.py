"""A wall clock that can be set for all processes of a test, and for nobody else."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

# Everything asks the C library for the time; what counts seconds since some start is left alone.
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile int64_t *ahead;

__attribute__((constructor)) static void begin(void) {
    void *found = mmap(0, 8, PROT_READ, MAP_SHARED, open(getenv("SECONDS_AHEAD"), O_RDONLY), 0);
    ahead = found == MAP_FAILED ? 0 : found;
}

int clock_gettime(clockid_t id, struct timespec *found) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(id, found);
    if (ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) found->tv_sec += *ahead;
    return status;
}

int gettimeofday(struct timeval *restrict found, void *restrict zone) {
    struct timespec now;
    int status = clock_gettime(CLOCK_REALTIME, &now);
    found->tv_sec = now.tv_sec;
    found->tv_usec = now.tv_nsec / 1000;
    return status;
}

time_t time(time_t *found) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (found) *found = now.tv_sec;
    return now.tv_sec;
}
"""


class MovedClock:
    """Of processes started with its `environment`."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("There is no C compiler. On Debian or Ubuntu: sudo apt-get install gcc")
        library, self._ahead = directory / "moved_clock.so", directory / "seconds_ahead"
        self.set(0)
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-o", library, "-x", "c", "-", "-ldl"], input=SOURCE.encode(), check=True
        )
        self.environment = {"LD_PRELOAD": str(library), "SECONDS_AHEAD": str(self._ahead)}

    def set(self, seconds_ahead: int) -> None:
        with self._ahead.open("r+b" if self._ahead.exists() else "wb") as file:
            file.write(struct.pack("=q", seconds_ahead))
