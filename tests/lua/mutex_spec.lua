-- SPDX-License-Identifier: MIT
-- The mutex: exclusion, the death of an owner, recover, repair and guards, foreign mutexes, Ctrl-C.
-- luacheck: ignore 211/held 211/ended 211/again
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises
local OFFSET = 64

describe("mutex", function()
  local seg
  before_each(function()
    seg = assert(polyshm.segment(support.posix(), { size = 4096, create = true }))
  end)
  after_each(function()
    polyshm.unlink(seg.address)
    seg:close()
  end)
  support.watch { before_each = before_each, after_each = after_each }

  -- A child that takes the mutex and keeps it; it has it when this returns.
  local function holder(lock)
    local pid = support.fork(function()
      assert(lock:acquire())
      seg:write(0, "held")
      helper.sleep(60)
    end)
    support.until_true(function() return seg:read(0, 4) == "held" end)
    seg:write(0, "\0\0\0\0")
    return pid
  end

  local function die_holding(lock)
    local pid = holder(lock)
    assert.same({ "signal", helper.SIGKILL }, { support.kill(pid) })
    return pid
  end

  it("is acquired and released", function()
    local lock = seg:mutex(OFFSET, { create = true })
    assert.is_false(lock:locked())
    assert.is_nil(lock:owner())
    assert.equal(1, select("#", lock:acquire()))
    assert.is_true(lock:locked())
    assert.equal(helper.getpid(), lock:owner())
    assert.equal(0, select("#", lock:release()))
    assert.is_false(lock:locked())
    assert.is_nil(lock:owner())
    assert.is_true(lock:acquire(0))
    lock:release()
    assert.is_true(lock:acquire(2.5))
    lock:release()
    assert.is_truthy(tostring(lock):find(seg.address .. ": mutex at 64", 1, true))
    raises("not held by this thread", lock.release, lock)
  end)

  it("tells its owner that it has it", function()
    local lock = seg:mutex(OFFSET, { create = true })
    lock:acquire()
    raises("already held by this thread", lock.acquire, lock)
    raises("already held by this thread", lock.acquire, lock, 1)
    raises("already held by this thread", lock.guard, lock)
    raises("already held by this thread", lock.recover, lock)
    assert.same({ false, "held" }, { lock:acquire(0) })
    local other = seg:mutex(OFFSET)
    assert.same({ false, "held" }, { other:acquire(0) })
    lock:release()
  end)

  it("counts where it is recursive", function()
    local lock = seg:mutex(OFFSET, { create = true, recursive = true })
    assert.is_true(lock:acquire())
    assert.is_true(lock:acquire(0))
    do
      local held <close> = lock:guard()
      local again <close> = lock:guard()
    end
    lock:release()
    assert.is_true(lock:locked())
    lock:release()
    assert.is_false(lock:locked())
    raises("not held", lock.release, lock)
    assert.is_truthy(seg:mutex(OFFSET, { recursive = true }))
    raises("its recursive setting is another", seg.mutex, seg, OFFSET, { recursive = false })
    seg:mutex(1024, { create = true })
    raises("its recursive setting is another", seg.mutex, seg, 1024, { recursive = true })
  end)

  it("is held through two mappings, of which the first is closed first", function()
    local first = assert(polyshm.segment(support.posix(), { size = 4096, create = true }))
    local second = assert(polyshm.segment(first.address))
    first:unlink()
    local other = assert(polyshm.segment("anon:", { size = 4096 })):mutex(0, { create = true })
    local outer, inner = first:mutex(OFFSET, { create = true, recursive = true }), second:mutex(OFFSET)
    outer:acquire()
    inner:acquire()
    outer:release()
    first:close()
    other:acquire()
    assert.is_true(inner:locked())
    other:release()
    inner:release()
    assert.is_false(inner:locked())
    second:close()
  end)

  it("excludes processes, and times out", function()
    local lock = seg:mutex(OFFSET, { create = true })
    local pid = holder(lock)
    assert.is_true(lock:locked())
    assert.equal(pid, lock:owner())
    assert.same({ false, "timeout" }, { lock:acquire(0) })
    local start = helper.now()
    assert.same({ false, "timeout" }, { lock:acquire(0.25) })
    assert.is_true(helper.now() - start >= 0.25)
    local problem = raises("mutex at 64", lock.guard, lock, 0)
    assert.equal("ETIMEDOUT", problem.code)
    assert.equal(lock, problem.lock)
    assert.equal("ETIMEDOUT", raises("", lock.guard, lock, 0.05).code)
    assert.equal("ETIMEDOUT", raises("", lock.recover, lock, 0).code)
    assert.equal("ETIMEDOUT", raises("", lock.recover, lock, 0.05).code)
    raises("not held by this thread", lock.release, lock)
    support.kill(pid)
  end)

  it("guards a counter against three processes", function()
    local lock = seg:mutex(OFFSET, { create = true })
    local count = seg:view("i64", 0, 1)
    local pids = {}
    for i = 1, 3 do
      pids[i] = support.fork(function()
        local own <close> = assert(polyshm.segment(seg.address))
        local mine = i == 1 and lock or own:mutex(OFFSET)
        for n = 1, 3000 do
          if n % 3 == 0 then
            local held <close> = mine:guard()
            count[1] = count[1] + 1
          else
            mine:acquire()
            count[1] = count[1] + 1
            mine:release()
          end
        end
      end)
    end
    for _, pid in ipairs(pids) do assert.same({ "exit", 0 }, { support.wait(pid) }) end
    assert.equal(9000, count[1])
  end)

  describe("owner death", function()
    it("is told to everybody until somebody recovers", function()
      local lock = seg:mutex(OFFSET, { create = true })
      local pid = die_holding(lock)
      for _ = 1, 2 do
        for _, timeout in ipairs { 0, 1, false } do
          local problem = raises("the owner died holding it", lock.acquire, lock, timeout or nil)
          assert.equal("EOWNERDEAD", problem.code)
          assert.equal(pid, problem.pid)
          assert.equal(lock, problem.lock)
          assert.equal(seg.address, problem.address)
          assert.is_truthy(tostring(problem):find(tostring(pid), 1, true))
        end
        assert.equal("EOWNERDEAD", raises("", lock.guard, lock).code)
        assert.is_false(lock:locked())
        assert.is_nil(lock:owner())
      end
      local other = seg:mutex(OFFSET)
      assert.equal(pid, raises("", other.acquire, other).pid)
      do
        local held <close>, died = other:recover()
        assert.equal(pid, died.pid)
        assert.equal("EOWNERDEAD", died.code)
        assert.equal(other, died.lock)
        assert.is_true(lock:locked())
      end
      assert.is_true(lock:acquire(0))
      lock:release()
      local held, died = lock:recover(1)
      assert.is_nil(died)
      held:release()
      assert.is_false(lock:locked())
    end)

    it("stays marked when an error leaves recover, or nobody looks after it", function()
      local lock = seg:mutex(OFFSET, { create = true })
      local pid = die_holding(lock)
      raises("no luck", function()
        local held <close>, died = lock:recover()
        assert(died.pid == pid)
        error("no luck")
      end)
      assert.is_false(lock:locked())
      assert.equal(pid, raises("", lock.acquire, lock).pid)
      lock:recover() -- forgotten
      collectgarbage()
      collectgarbage()
      assert.is_false(lock:locked())
      assert.equal(pid, raises("", lock.acquire, lock).pid)
      -- A second death, in the middle of the recovery.
      local second = support.fork(function()
        local held <close>, died = lock:recover()
        assert(died.pid == pid)
        helper.raise(helper.SIGKILL)
      end)
      assert.same({ "signal", helper.SIGKILL }, { support.wait(second) })
      assert.equal("EOWNERDEAD", raises("", lock.acquire, lock).code)
      local held, died = lock:recover()
      assert.is_truthy(died)
      held:release()
      held:release()
      assert.equal("polyshm.guard (released)", tostring(held))
      assert.is_true(lock:acquire(0))
      lock:release()
    end)

    it("wakes who waits", function()
      local lock = seg:mutex(OFFSET, { create = true })
      local pid = holder(lock)
      local waiter = support.fork(function()
        local mine = seg:mutex(OFFSET)
        seg:write(0, "wait")
        local ok, problem = pcall(mine.acquire, mine)
        assert(not ok and problem.code == "EOWNERDEAD" and problem.pid == pid)
      end)
      support.until_true(function() return seg:read(0, 4) == "wait" end)
      helper.sleep(0.15)
      support.kill(pid)
      assert.same({ "exit", 0 }, { support.wait(waiter) })
      local held <close>, died = lock:recover()
      assert.equal(pid, died.pid)
    end)

    it("is an exit, too", function()
      local lock = seg:mutex(OFFSET, { create = true })
      local pid = support.fork(function() lock:acquire() end)
      support.wait(pid)
      assert.equal(pid, raises("", lock.acquire, lock).pid)
      local held <close> = lock:recover()
    end)

    it("is repaired by the function of the option", function()
      local calls = {}
      local lock
      lock = seg:mutex(OFFSET, { create = true, repair = function(died)
        calls[#calls + 1] = died
        assert(lock:locked() and lock:owner() == helper.getpid())
      end })
      assert.is_true(lock:acquire())
      lock:release()
      assert.equal(0, #calls)
      local pid = die_holding(lock)
      assert.is_true(lock:acquire())
      assert.equal(1, #calls)
      assert.equal(pid, calls[1].pid)
      assert.equal("EOWNERDEAD", calls[1].code)
      lock:release()
      pid = die_holding(lock)
      do local held <close> = lock:guard(1) end
      assert.equal(pid, calls[2].pid)
      pid = die_holding(lock)
      assert.is_true(lock:acquire(0))
      lock:release()
      assert.equal(pid, calls[3].pid)
      assert.is_true(lock:acquire(0))
      lock:release()
      assert.equal(3, #calls)
    end)

    it("stays marked where repair raises", function()
      local lock = seg:mutex(OFFSET, { create = true, repair = function() error({ "mine" }) end })
      local pid = die_holding(lock)
      local plain = seg:mutex(OFFSET)
      for _ = 1, 2 do
        local ok, problem = pcall(lock.acquire, lock)
        assert.is_false(ok)
        assert.same({ "mine" }, problem)
        assert.is_false(lock:locked())
        ok, problem = pcall(lock.guard, lock)
        assert.is_false(ok)
        assert.same({ "mine" }, problem)
        assert.is_false(lock:locked())
        assert.equal(pid, raises("", plain.acquire, plain).pid)
      end
      local held, died = lock:recover() -- repairs by hand: the function is not called
      assert.equal(pid, died.pid)
      held:release()
      plain:acquire()
      plain:release()
    end)

    it("survives a repair that is killed, or gives the lock away", function()
      local killed = seg:mutex(OFFSET, { create = true, repair = function() helper.raise(helper.SIGKILL) end })
      local pid = die_holding(killed)
      local second = support.fork(function() killed:acquire() end)
      assert.same({ "signal", helper.SIGKILL }, { support.wait(second) })
      local lock
      lock = seg:mutex(OFFSET, { repair = function(died)
        assert.is_true(died.pid == pid or died.pid == second)
        lock:release()
      end })
      raises("not held by this thread", lock.acquire, lock)
      assert.is_false(lock:locked())
      raises("not held by this thread", lock.guard, lock)
      local held <close> = seg:mutex(OFFSET):recover()
    end)
  end)

  describe("guard", function()
    it("releases at the end of its block, however that is reached", function()
      local lock = seg:mutex(OFFSET, { create = true })
      do
        local held <close> = lock:guard()
        assert.is_true(lock:locked())
        assert.is_truthy(tostring(held):find("polyshm.guard (" .. seg.address, 1, true))
      end
      assert.is_false(lock:locked())
      raises("inner", function()
        local held <close> = lock:guard()
        error("inner")
      end)
      assert.is_false(lock:locked())
      for _ = 1, 2 do
        local held <close> = lock:guard(1)
        if lock:locked() then goto continue end
        ::continue::
      end
      assert.is_false(lock:locked())
      local thread = coroutine.create(function()
        local held <close> = lock:guard()
        coroutine.yield()
      end)
      coroutine.resume(thread)
      assert.is_true(lock:locked())
      coroutine.close(thread)
      assert.is_false(lock:locked())
    end)

    it("says that the lock was gone, and hides no error by it", function()
      local lock = seg:mutex(OFFSET, { create = true })
      raises("not held by this thread", function()
        local held <close> = lock:guard()
        lock:release()
      end)
      raises("the real one", function()
        local held <close> = lock:guard()
        lock:release()
        error("the real one")
      end)
    end)

    it("outlives its lock's handle and the segment's", function()
      local lock = seg:mutex(OFFSET, { create = true })
      local other <close> = assert(polyshm.segment(seg.address))
      local watcher = other:mutex(OFFSET)
      local held = lock:guard()
      do local ended <close> = lock end
      raises("mutex is closed", lock.locked, lock)
      seg:close()
      assert.is_true(watcher:locked())
      held:release()
      assert.is_false(watcher:locked())
    end)

    it("is collected in any order", function()
      local lock = seg:mutex(OFFSET, { create = true })
      do
        local own = assert(polyshm.segment(seg.address))
        own:mutex(OFFSET):guard()
      end
      collectgarbage()
      collectgarbage()
      assert.is_false(lock:locked())
    end)
  end)

  it("is held on a closed segment until it is released", function()
    local lock = seg:mutex(OFFSET, { create = true })
    lock:acquire()
    seg:close()
    raises("segment is closed", lock.acquire, lock)
    raises("segment is closed", lock.guard, lock)
    raises("segment is closed", lock.recover, lock)
    raises("segment is closed", lock.locked, lock)
    raises("segment is closed", lock.owner, lock)
    lock:release()
    raises("not held", lock.release, lock)
    local again <close> = assert(polyshm.segment(seg.address))
    local other = again:mutex(OFFSET)
    assert.is_true(other:acquire(0))
    other:release()
  end)

  it("is found where there is one", function()
    raises("no robust process-shared mutex", seg.mutex, seg, OFFSET)
    seg:fill(0xff)
    raises("no robust process-shared mutex", seg.mutex, seg, OFFSET)
    raises("not aligned", seg.mutex, seg, 4, { create = true })
    raises("outside the segment", seg.mutex, seg, 4096 - polyshm.MUTEX_SIZE + 8, { create = true })
    assert.is_truthy(seg:mutex(4096 - polyshm.MUTEX_SIZE, { create = true }))
    local lock = seg:mutex(OFFSET, { create = true })
    seg:fill(0, OFFSET, polyshm.MUTEX_SIZE)
    raises("no robust process-shared mutex", lock.acquire, lock)
    raises("option repair: function expected", seg.mutex, seg, OFFSET, { create = true, repair = 1 })
    raises("option create: boolean expected", seg.mutex, seg, OFFSET, { create = 1 })
    raises("unknown option 'timeout'", seg.mutex, seg, OFFSET, { timeout = 1 })
    raises("table expected", seg.mutex, seg, OFFSET, true)
    local r <close> = assert(polyshm.segment(seg.address, { access = "r" }))
    raises("read-only", r.mutex, r, OFFSET)
  end)

  it("shares a mutex with a program that knows only pthreads", function()
    local path = "/dev/shm" .. seg.name
    helper.foreign_mutex(path, OFFSET)
    local lock = seg:mutex(OFFSET)
    seg:write(OFFSET + 40, "not ours to write......") -- behind the pthread mutex
    lock:acquire()
    assert.is_nil(lock:owner())
    assert.is_true(lock:locked())
    support.in_child(function() assert(helper.foreign_lock(path, OFFSET, "try") ~= 0) end)
    lock:release()
    assert.equal("not ours to write......", seg:read(OFFSET + 40, 23))
    local pid = support.fork(function()
      assert(helper.foreign_lock(path, OFFSET, "lock") == 0)
      helper.raise(helper.SIGKILL)
    end)
    support.wait(pid)
    local problem = raises("the owner died", lock.acquire, lock)
    assert.is_nil(problem.pid)
    assert.is_true(lock:acquire()) -- told once
    lock:release()
    -- With repair it is told to repair.
    local calls = 0
    local repairing = seg:mutex(OFFSET, { repair = function(died)
      calls = calls + 1
      assert.is_nil(died.pid)
    end })
    pid = support.fork(function()
      helper.foreign_lock(path, OFFSET, "lock")
      helper.raise(helper.SIGKILL)
    end)
    support.wait(pid)
    assert.is_true(repairing:acquire())
    repairing:release()
    assert.equal(1, calls)
    -- A mutex of ours, taken by the other side.
    local ours = seg:mutex(1024, { create = true })
    pid = support.fork(function()
      helper.foreign_lock(path, 1024, "lock")
      helper.raise(helper.SIGKILL)
    end)
    support.wait(pid)
    for _ = 1, 2 do
      problem = raises("the owner died", ours.acquire, ours)
      assert.is_nil(problem.pid)
    end
    do local held <close> = ours:recover() end
    support.in_child(function()
      assert(helper.foreign_lock(path, 1024, "lock") == 0)
      assert(helper.foreign_lock(path, 1024, "unlock") == 0)
    end)
    helper.foreign_mutex(path, 2048, "fragile")
    raises("no robust process-shared mutex", seg.mutex, seg, 2048)
  end)

  it("is not the child's after a fork", function()
    local lock = seg:mutex(OFFSET, { create = true })
    lock:acquire()
    support.in_child(function()
      raises("not held by this thread", lock.release, lock)
      assert(select(2, lock:acquire(0)) == "timeout")
    end)
    assert.equal(helper.getpid(), lock:owner())
    lock:release()
  end)

  it("refuses timeouts that are none", function()
    local lock = seg:mutex(OFFSET, { create = true })
    for _, verb in ipairs { "acquire", "guard", "recover" } do
      for _, wrong in ipairs { -1, -0.001, 0 / 0, -math.huge } do
        raises("timeout must be 0 or more seconds", lock[verb], lock, wrong)
      end
      for _, wrong in ipairs { "1", {}, true } do
        raises("number of seconds expected", lock[verb], lock, wrong)
      end
    end
    assert.is_false(lock:locked())
    assert.is_true(lock:acquire(math.huge))
    lock:release()
    assert.is_true(lock:acquire(1e300))
    lock:release()
  end)

  it("lets signals and hooks pass, and closes under a wait", function()
    local lock = seg:mutex(OFFSET, { create = true })
    local pid = holder(lock)
    local alarms = helper.alarm(0.01, 0.01)
    assert.same({ false, "timeout" }, { lock:acquire(0.3) })
    assert.is_true(helper.alarm(0) > alarms)
    local start, ran = helper.now(), 0
    debug.sethook(function()
      ran = ran + 1
      if helper.now() - start > 0.25 then
        debug.sethook()
        seg:close()
      end
    end, "c")
    local ok, problem = pcall(lock.acquire, lock)
    debug.sethook()
    assert.is_false(ok)
    assert.is_truthy(tostring(problem):find("segment is closed", 1, true))
    assert.is_true(ran > 1)
    support.kill(pid)
    start = helper.now()
    local again <close> = assert(polyshm.segment(seg.address))
    local mine = again:mutex(OFFSET)
    do local held <close> = mine:recover() end
    pid = support.fork(function()
      mine:acquire()
      again:write(0, "held")
      helper.sleep(60)
    end)
    support.until_true(function() return again:read(0, 4) == "held" end)
    -- A hook that ends the very lock that is waited for.
    debug.sethook(function()
      if helper.now() - start > 0.1 then
        debug.sethook()
        getmetatable(mine).__gc(mine)
      end
    end, "c")
    ok, problem = pcall(mine.guard, mine)
    debug.sethook()
    assert.is_false(ok)
    assert.is_truthy(tostring(problem):find("mutex is closed", 1, true))
    support.kill(pid)
  end)

  for _, where in ipairs { "the main thread", "a coroutine" } do
    it("Ctrl-C ends a wait in " .. where .. ", and the lock is not held", function()
      local lock = seg:mutex(OFFSET, { create = true })
      lock:acquire()
      local how, number, text = support.lua(([[
        local polyshm = require "polyshm"
        local seg <close> = assert(polyshm.segment(%q))
        local lock = seg:mutex(%d)
        local function wait()
          seg:write(0, "wait")
          lock:acquire()
        end
        local ok, problem = pcall(%s)
        print(ok, tostring(problem):match("interrupted!"))
        if coroutine.running() then print(lock:owner() ~= nil, pcall(lock.release, lock)) end
        seg:write(0, "free")
      ]]):format(seg.address, OFFSET, where == "a coroutine" and "coroutine.wrap(wait)" or "wait"), function(pid)
        support.until_true(function() return seg:read(0, 4) == "wait" end)
        helper.sleep(0.15)
        helper.kill(pid, helper.SIGINT)
      end)
      lock:release()
      if where == "the main thread" then
        assert.equal("exit", how)
        assert.equal(0, number)
        assert.is_truthy(text:find("^false\tinterrupted!\ntrue\tfalse\t.*not held by this thread"), text)
      else
        -- The hook of the main thread is still there when the coroutine is back, and raises once more.
        assert.equal("exit", how)
        assert.is_truthy(text:find("interrupted!", 1, true), text)
      end
    end)
  end
end)
