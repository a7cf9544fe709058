-- For wrk: each request has a name of its own in its callback address. TAG begins it; CALLBACK comes before it.
-- With ANSWERS, the moment of each answer 200 is written to that file.
local tag, callback, answers = os.getenv("TAG"), os.getenv("CALLBACK"), os.getenv("ANSWERS")
local count = 0

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"

function request()
  count = count + 1
  return wrk.format(nil, nil, nil, '{"stationId": "123e4567-e89b-12d3-a456-426614174000", '
    .. '"driverToken": "bench-driver-allowed-0001", "callbackUrl": "' .. callback .. tag .. count .. '"}')
end

if answers then
  local ffi = require("ffi")
  ffi.cdef "typedef struct { long seconds, micros; } moment; int gettimeofday(moment *, void *);"
  local now = ffi.new("moment")
  local file

  function response(status)
    if status == 200 then
      if not file then
        file = io.open(answers, "w")
        file:setvbuf("line")
      end
      ffi.C.gettimeofday(now, nil)
      file:write(string.format("%d.%06d\n", tonumber(now.seconds), tonumber(now.micros)))
    end
  end
end

function done(summary, latency)
  io.write(string.format('\nFIGURES {"answers": %d, "refused": %d, "seconds": %.4f, "p50": %.3f, "p99": %.3f}\n',
    summary.requests, summary.errors.status, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
