-- SPDX-License-Identifier: MIT
-- What the specs share: names and processes that are cleaned up, and the check that nothing is left behind.
local helper = require "helper"
local polyshm = require "polyshm"

local M = { seed = tonumber(os.getenv("POLYSHM_SEED")) or 20405 }

--- Source that finds the modules where this process found them.
M.prelude = ("package.path, package.cpath = %q, %q "):format(package.path, package.cpath)

local PREFIX = ("polyshm-lua-%d-"):format(helper.getpid())
local count = 0
local children = {}

--- An address that nobody else uses.
function M.posix()
  count = count + 1
  return "posix:/" .. PREFIX .. count
end

--- A path that nobody else uses; the file goes with the test.
function M.path()
  count = count + 1
  local path = "/tmp/" .. PREFIX .. count
  M.files[#M.files + 1] = path
  return path
end

--- A System V key that nobody uses.
function M.key()
  repeat
    count = count + 1
    local address = ("sysv:0x%x"):format(0x50000000 + helper.getpid() % 0x7fff * 0x1000 + count)
    if not polyshm.exists(address) then return address end
  until false
end

--- Runs `body` in a child; returns its pid. An error there is exit code 1 and a line on stderr.
function M.fork(body, ...)
  local pid = helper.fork()
  if pid ~= 0 then
    children[pid] = true
    return pid
  end
  local ok, problem = xpcall(body, debug.traceback, ...)
  if not ok then io.stderr:write("child: ", tostring(problem), "\n") end
  helper.exit(ok and 0 or 1)
end

--- Waits for a child, not for ever: "exit" or "signal", and the number.
function M.wait(pid, seconds)
  local deadline = helper.now() + (seconds or 30)
  repeat
    local how, number = helper.waitpid(pid, true)
    if how then
      children[pid] = nil
      return how, number
    end
    helper.sleep(0.002)
  until helper.now() > deadline
  helper.kill(pid, helper.SIGKILL)
  children[pid] = nil
  helper.waitpid(pid)
  error(("child %d did not end in time"):format(pid), 2)
end

--- Runs `body` in a child and fails unless it ends well.
function M.in_child(body, ...)
  local how, number = M.wait(M.fork(body, ...))
  if how ~= "exit" or number ~= 0 then error(("the child ended by %s %d"):format(how, number), 2) end
end

--- Kills a child with SIGKILL and collects it.
function M.kill(pid)
  helper.kill(pid, helper.SIGKILL)
  return M.wait(pid)
end

--- Waits until `condition` holds.
function M.until_true(condition)
  local deadline = helper.now() + 30
  while not condition() do
    if helper.now() > deadline then error("it did not happen in time", 2) end
    helper.sleep(0.002)
  end
end

--- Runs Lua source in a lua5.4 of its own: "exit" or "signal", the number, and what it wrote. `before(pid)` is called
--- while it runs.
function M.lua(source, before)
  local script, output = M.path(), M.path()
  local file = assert(io.open(script, "w"))
  file:write(M.prelude, source)
  file:close()
  local pid = M.fork(function()
    helper.exec("sh", "-c", 'exec lua5.4 "$0" >"$1" 2>&1', script, output)
  end)
  if before then before(pid) end
  local how, number = M.wait(pid)
  file = assert(io.open(output))
  local text = file:read("a")
  file:close()
  return how, number, text
end

--- Fails unless calling raises an error whose text has `pattern` in it (plain); returns the error.
function M.raises(pattern, f, ...)
  local ok, problem = pcall(f, ...)
  if ok then error("no error where one was expected: " .. pattern, 2) end
  if not tostring(problem):find(pattern, 1, true) then
    error(("expected %q in the error, got %q"):format(pattern, tostring(problem)), 2)
  end
  return problem
end

--- Fails unless calling gives nil, a message with `pattern` in it, and `code`.
function M.refused(code, pattern, ...)
  local value, message, got = ...
  if value ~= nil or got ~= code or not tostring(message):find(pattern, 1, true) then
    error(("expected nil, ...%s..., %s; got %s, %s, %s"):format(pattern, code, tostring(value), tostring(message),
      tostring(got)), 2)
  end
end

local function sysv_of_ours(pids)
  local found = {}
  for line in io.lines("/proc/sysvipc/shm") do
    local id, cpid = line:match("^%s*%-?%d+%s+(%d+)%s+%d+%s+%d+%s+(%d+)")
    if cpid and pids[tonumber(cpid)] then found[#found + 1] = tonumber(id) end
  end
  return found
end

local function names_of_ours()
  local found = {}
  for _, entry in ipairs(assert(polyshm.list())) do
    if entry.address:find(PREFIX, 1, true) then found[#found + 1] = entry.address end
  end
  return found
end

--- To be called in a `describe`: checks after each of its tests that no name, System V segment, process or file of
--- this process is left.
function M.watch(busted)
  local pids
  busted.before_each(function()
    M.files = {}
    pids = { [helper.getpid()] = true }
    setmetatable(children, { __newindex = function(t, pid, value)
      pids[pid] = true
      rawset(t, pid, value)
    end })
  end)
  busted.after_each(function()
    local problems = {}
    for pid in pairs(children) do
      problems[#problems + 1] = "process " .. pid
      M.kill(pid)
    end
    collectgarbage()
    collectgarbage()
    for _, path in ipairs(M.files) do os.remove(path) end
    for _, address in ipairs(names_of_ours()) do
      problems[#problems + 1] = address
      polyshm.unlink(address)
    end
    for _, id in ipairs(sysv_of_ours(pids)) do
      problems[#problems + 1] = "sysv:id=" .. id
      polyshm.unlink("sysv:id=" .. id)
    end
    if #problems > 0 then error("left behind: " .. table.concat(problems, ", ")) end
  end)
end

return M
