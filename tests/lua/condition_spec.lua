-- SPDX-License-Identifier: MIT
-- Conditions: waiting and notifying, the mutex and its depth, deaths, errors of hooks, and what goes meanwhile.
-- luacheck: ignore 211/held
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("condition", function()
  local shared, lock, changed, done
  before_each(function()
    shared = assert(polyshm.arena(support.posix(), { create = true, size = "1M", participants = 16 }))
    lock = shared:mutex("books")
    changed = shared:condition("changed", lock)
    done = shared:counter("done")
  end)
  after_each(function()
    polyshm.unlink(shared.address)
    shared:close()
  end)
  support.watch { before_each = before_each, after_each = after_each }

  local function until_asleep(count)
    support.until_true(function()
      local asleep = 0
      for _, one in ipairs(shared:participants()) do
        if one.waits == "changed" then asleep = asleep + 1 end
      end
      return asleep >= (count or 1)
    end)
  end

  --- A child that waits once, and then does `after` with the lock held.
  local function waiter(after)
    return support.fork(function()
      local held <close> = changed:guard()
      assert(changed:wait(30))
      assert(lock:owner() == helper.getpid())
      done:add()
      if after then after() end
    end)
  end

  local function die_holding()
    local pid = support.fork(function()
      lock:acquire()
      helper.raise(helper.SIGKILL)
    end)
    assert.same({ "signal", helper.SIGKILL }, { support.wait(pid) })
    return pid
  end

  it("is opened with its mutex", function()
    assert.equal("changed", changed:name())
    assert.equal(lock, changed:mutex())
    assert.is_truthy(tostring(changed):find('^polyshm.condition %(.*condition "changed"%)$'))
    for _, again in ipairs { shared:open("changed"), shared:condition("changed"), shared:condition("changed", nil) } do
      assert.equal("books", again:mutex():name())
      again:acquire()
      assert.is_true(lock:locked())
      again:release()
    end
    assert.equal("books", shared:condition("changed", shared:mutex("books")):mutex():name())
  end)

  it("needs a mutex of the same arena", function()
    raises("a new condition needs a mutex of the same arena", shared.condition, shared, "new")
    local other <close> = assert(polyshm.arena("anon:", { size = "1M" }))
    raises("a new condition needs a mutex of the same arena", shared.condition, shared, "new", other:mutex("books"))
    raises("a new condition needs a mutex of the same arena", shared.condition, shared, "changed", other:mutex("books"))
    raises("this parameter of it is another", shared.condition, shared, "changed", shared:mutex("other"))
    raises("mutex", shared.condition, shared, "new", done)
    raises("mutex", shared.condition, shared, "new", 3)
    raises("another kind", shared.condition, shared, "done", lock)
    local segment <close> = assert(polyshm.segment("anon:", { size = 4096 }))
    raises("mutex", shared.condition, shared, "new", segment:mutex(0, { create = true }))
    assert.is_nil((shared:open("new")))
    local reader <close> = assert(polyshm.arena(shared.address, { access = "r" }))
    local seen = reader:condition("changed")
    assert.equal("books", seen:mutex():name())
    for _, verb in ipairs { "acquire", "guard", "wait", "notify", "notify_all" } do
      raises("read-only", seen[verb], seen)
    end
  end)

  it("is used with the mutex held", function()
    for _, verb in ipairs { "wait", "notify", "notify_all" } do
      raises('condition "changed": not held by this thread', changed[verb], changed)
    end
    raises("not held by this thread", changed.wait_for, changed, function() end)
    raises("not held by this thread", changed.release, changed)
    assert.is_true(changed:acquire())
    assert.is_true(changed:locked())
    for _, n in ipairs { 0, -1, math.mininteger, 1, 2 ^ 31, math.maxinteger } do
      assert.equal(0, select("#", changed:notify(n)))
    end
    assert.equal(0, select("#", changed:notify_all()))
    raises("number expected", changed.notify, changed, {})
    assert.same({ false, "held" }, { changed:acquire(0) })
    changed:release()
    assert.is_false(changed:locked())
    do
      local held <close> = changed:guard(1)
      assert.is_true(lock:locked())
    end
    assert.is_false(lock:locked())
  end)

  it("times out, and has the mutex again", function()
    changed:acquire()
    assert.same({ false, "timeout" }, { changed:wait(0) })
    assert.same({ false, "timeout" }, { changed:wait(0.15) })
    assert.equal(helper.getpid(), lock:owner())
    assert.same({ nil, "timeout" }, { changed:wait_for(function() return nil end, 0.01) })
    assert.same({ false, "timeout" }, { changed:wait_for(function() return false end, 0) })
    assert.same({ 7 }, { changed:wait_for(function() return 7 end) })
    raises("function expected, got number", changed.wait_for, changed, 3)
    assert.same({ { "mine" } }, { select(2, pcall(changed.wait_for, changed, function() error({ "mine" }) end)) })
    assert.is_true(lock:locked())
    changed:release()
  end)

  it("wakes as many as are notified", function()
    local pids = { waiter(), waiter(), waiter(), waiter() }
    until_asleep(4)
    changed:acquire()
    changed:notify()
    changed:notify(1)
    changed:notify_all()
    changed:release()
    for _, pid in ipairs(pids) do assert.same({ "exit", 0 }, { support.wait(pid) }) end
    assert.equal(4, done:load())
  end)

  it("waits for what a function says", function()
    local pid = support.fork(function()
      for _ = 1, 3 do
        local held <close> = changed:guard()
        done:add()
        changed:notify_all()
      end
    end)
    local held <close> = changed:guard()
    assert.equal("three", changed:wait_for(function() return done:load() >= 3 and "three" end))
    assert.same({ "exit", 0 }, { support.wait(pid) })
  end)

  it("gives back how often the mutex is held", function()
    local again = shared:mutex("again", { recursive = true })
    local deep = shared:condition("deep", again)
    for _ = 1, 3 do again:acquire() end
    local pid = support.fork(function()
      assert(again:acquire(20))
      deep:notify()
      again:release()
    end)
    assert.is_true(deep:wait(20))
    assert.same({ "exit", 0 }, { support.wait(pid) })
    for _ = 1, 3 do again:release() end
    raises("not held", again.release, again)
  end)

  describe("whose mutex is left by the dead", function()
    it("wakes, and raises", function()
      local pid = support.fork(function()
        until_asleep()
        lock:acquire()
        helper.raise(helper.SIGKILL)
      end)
      local problem = raises("died", function()
        local held <close> = changed:guard()
        changed:wait()
      end)
      support.wait(pid)
      assert.equal("EOWNERDEAD", problem.code)
      assert.equal(pid, problem.pid)
      assert.equal(lock, problem.lock)
      assert.is_false(lock:locked())
      local guard, died = lock:recover()
      assert.equal(pid, died.pid)
      guard:release()
    end)

    it("runs the repair of the mutex", function()
      local calls, mine = {}, nil
      mine = shared:mutex("books", { repair = function(died)
        calls[#calls + 1] = died.pid
        assert(mine:owner() == helper.getpid())
      end })
      local cond = shared:condition("changed", mine)
      local pid = support.fork(function()
        until_asleep()
        lock:acquire()
        helper.raise(helper.SIGKILL)
      end)
      do
        local held <close> = cond:guard()
        assert.is_true(cond:wait())
        assert.same({ pid }, calls)
        assert.equal(helper.getpid(), mine:owner())
      end
      support.wait(pid)
      assert.is_true(lock:acquire(0))
      lock:release()
    end)

    it("is not held where the repair raises", function()
      local cond = shared:condition("changed", shared:mutex("books", { repair = function() error({ "mine" }) end }))
      local pid = support.fork(function()
        until_asleep()
        lock:acquire()
        helper.raise(helper.SIGKILL)
      end)
      local ok, problem = pcall(function()
        local held <close> = cond:guard()
        cond:wait()
      end)
      support.wait(pid)
      assert.is_false(ok)
      assert.same({ "mine" }, problem)
      assert.equal(pid, raises("", lock.acquire, lock).pid)
      lock:recover():release()
    end)

    it("wakes though another repairs, and nobody notifies", function()
      local function repairing()
        return support.fork(function()
          local cond = shared:condition("changed", shared:mutex("books", { repair = function() end }))
          local held <close> = cond:guard()
          assert(cond:wait(30))
        end)
      end
      local pids = { repairing(), repairing(), repairing() }
      until_asleep(3)
      die_holding()
      for _, pid in ipairs(pids) do assert.same({ "exit", 0 }, { support.wait(pid) }) end
    end)
  end)

  it("has the mutex again before a hook's error comes", function()
    local waits = false
    debug.sethook(function()
      if waits and not lock:locked() then
        debug.sethook()
        error({ "mine" })
      end
    end, "", 1)
    local ok, problem = pcall(function()
      local held <close> = changed:guard()
      waits = true
      local fine, inner = pcall(changed.wait, changed)
      assert(not fine and lock:owner() == helper.getpid())
      error(inner)
    end)
    debug.sethook()
    assert.is_false(ok)
    assert.same({ "mine" }, problem)
    assert.is_false(lock:locked())
  end)

  it("waits for the mutex though hooks go on raising", function()
    -- Another has the mutex when the first error comes.
    local pid = support.fork(function()
      until_asleep()
      lock:acquire()
      helper.sleep(0.4)
      lock:release()
    end)
    local errors = 0
    changed:acquire()
    debug.sethook(function()
      if lock:owner() == pid then
        errors = errors + 1
        error({ errors })
      end
    end, "", 1)
    local ok, problem = pcall(changed.wait, changed, 20)
    debug.sethook()
    assert.is_false(ok)
    assert.is_true(problem[1] > 1, problem[1])
    assert.equal(errors, problem[1])
    assert.equal(helper.getpid(), lock:owner())
    changed:release()
    assert.same({ "exit", 0 }, { support.wait(pid) })
  end)

  it("lets signals and hooks pass while it waits", function()
    local alarms = helper.alarm(0.01, 0.01)
    changed:acquire()
    assert.same({ false, "timeout" }, { changed:wait(0.2) })
    assert.is_true(helper.alarm(0) > alarms)
    -- A hook that ends both handles.
    local start = helper.now()
    debug.sethook(function()
      if helper.now() - start > 0.12 then
        debug.sethook()
        getmetatable(changed).__gc(changed)
        getmetatable(lock).__gc(lock)
      end
    end, "", 1)
    raises("condition is closed", changed.wait, changed, 20)
    debug.sethook()
    assert.is_true(helper.now() - start < 10)
    raises("condition is closed", changed.notify, changed)
    local again = shared:mutex("books")
    assert.equal(helper.getpid(), again:owner())
    again:release()
  end)

  it("Ctrl-C ends a wait, and the mutex is given back", function()
    local how, number, text = support.lua(([[
      local polyshm = require "polyshm"
      local shared <close> = assert(polyshm.arena(%q))
      local changed = shared:condition("changed")
      local ok, problem = pcall(function()
        local held <close> = changed:guard()
        changed:wait()
      end)
      print(ok, tostring(problem):match("interrupted!"), changed:locked())
    ]]):format(shared.address), function(pid)
      until_asleep()
      helper.kill(pid, helper.SIGINT)
    end)
    assert.same({ "exit", 0, "false\tinterrupted!\tfalse\n" }, { how, number, text })
  end)

  it("survives waiters that are killed and stopped", function()
    local killed, stopped = waiter(), waiter()
    until_asleep(2)
    support.kill(killed)
    helper.kill(stopped, helper.SIGSTOP)
    changed:acquire()
    changed:notify_all()
    changed:release()
    helper.kill(stopped, helper.SIGCONT)
    assert.same({ "exit", 0 }, { support.wait(stopped) })
    assert.equal(1, done:load())
    assert.same({}, shared:check())
  end)

  it("may be deleted, or its mutex, or closed", function()
    local function expect(code)
      return support.fork(function()
        local ok, problem = pcall(function()
          local held <close> = changed:guard()
          changed:wait(30)
        end)
        assert(not ok and problem.code == code, tostring(problem))
      end)
    end
    local pid = expect("EDELETED")
    until_asleep()
    shared:delete("changed")
    assert.same({ "exit", 0 }, { support.wait(pid) })
    assert.is_false(lock:locked())
    lock:acquire()
    assert.equal("EDELETED", raises("deleted", changed.wait, changed).code)
    assert.equal(helper.getpid(), lock:owner())
    lock:release()
    changed = shared:condition("changed", lock)
    pid = expect("EDELETED")
    until_asleep()
    shared:delete("books")
    assert.same({ "exit", 0 }, { support.wait(pid) })
    assert.equal("EDELETED", raises("deleted", shared.condition, shared, "changed").code)
    local own = assert(polyshm.arena(shared.address))
    local fresh = own:mutex("books")
    raises("deleted", own.open, own, "changed")
    local names = {}
    for name in pairs(own) do names[#names + 1] = name end
    assert.is_true(own:has("changed"))
    for _, name in ipairs(names) do assert.is_not.equal("changed", name) end
    assert.is_true(#names > 0)
    own:delete("changed")
    local anew = own:condition("changed", fresh)
    anew:acquire()
    own:close()
    raises("arena is closed", anew.wait, anew)
    anew:release()
  end)
end)
