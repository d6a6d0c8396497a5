-- SPDX-License-Identifier: MIT
-- The mutex of an arena: exclusion, the death of an owner, recover, repair and guards, coroutines, forks, Ctrl-C.
-- luacheck: ignore 211/held 211/ended 211/again
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("mutex of an arena", function()
  local shared, lock
  before_each(function()
    shared = assert(polyshm.arena(support.posix(), { create = true, size = "1M", participants = 16 }))
    lock = shared:mutex("books")
  end)
  after_each(function()
    polyshm.unlink(shared.address)
    shared:close()
  end)
  support.watch { before_each = before_each, after_each = after_each }

  -- A child that takes the mutex and keeps it; it has it when this returns.
  local function holder(mutex)
    local ready = shared:counter("ready")
    ready:store(0)
    local pid = support.fork(function()
      assert(mutex:acquire())
      ready:add()
      helper.sleep(60)
    end)
    assert.is_true(ready:wait(1, 30))
    return pid
  end

  local function slot_of(pid)
    for _, one in ipairs(shared:participants()) do
      if one.pid == pid then return one.slot end
    end
  end

  local function die_holding(mutex)
    local pid = holder(mutex)
    local slot = slot_of(pid)
    assert.same({ "signal", helper.SIGKILL }, { support.kill(pid) })
    return pid, slot
  end

  it("is acquired and released", function()
    assert.equal("books", lock:name())
    assert.is_false(lock:recursive())
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
    assert.is_true(lock:acquire(nil))
    lock:release()
    assert.is_true(lock:acquire(math.huge))
    lock:release()
    raises('mutex "books": not held by this thread', lock.release, lock)
  end)

  it("tells its owner that it has it, in every coroutine", function()
    lock:acquire()
    local function told()
      raises("already held by this thread", lock.acquire, lock)
      raises("already held by this thread", lock.acquire, lock, 1)
      raises("already held by this thread", lock.guard, lock)
      raises("already held by this thread", lock.recover, lock)
      assert.same({ false, "held" }, { lock:acquire(0) })
      assert.same({ false, "held" }, { shared:mutex("books"):acquire(0) })
      return true
    end
    assert.is_true(told())
    assert.is_true(coroutine.wrap(told)()) -- the owner is the thread
    local other <close> = assert(polyshm.arena(shared.address))
    assert.same({ false, "held" }, { other:mutex("books"):acquire(0) })
    coroutine.wrap(function() lock:release() end)()
    assert.is_false(lock:locked())
  end)

  it("counts where it is recursive", function()
    local nested = shared:mutex("nested", { recursive = true })
    assert.is_true(nested:recursive())
    assert.is_true(nested:acquire())
    assert.is_true(nested:acquire(0))
    do
      local held <close> = nested:guard()
      local again <close> = nested:guard()
      assert.is_true(coroutine.wrap(function() return nested:acquire() end)())
      nested:release()
    end
    nested:release()
    assert.is_true(nested:locked())
    nested:release()
    assert.is_false(nested:locked())
    raises("not held", nested.release, nested)
    assert.is_true(shared:mutex("nested"):recursive())
    assert.is_true(shared:open("nested"):recursive())
    raises("its recursive setting is another", shared.mutex, shared, "nested", { recursive = false })
    raises("its recursive setting is another", shared.mutex, shared, "books", { recursive = true })
    assert.is_truthy(shared:mutex("books", { recursive = false }))
    nested:acquire()
    for _ = 1, 65535 do nested:acquire() end -- again
    raises("too often", nested.acquire, nested)
    for _ = 0, 65535 do nested:release() end
    assert.is_false(nested:locked())
  end)

  it("is one of 32 at a time", function()
    local all = {}
    for i = 1, 32 do all[i] = shared:mutex("m" .. i) end
    for i = 1, 32 do all[i]:acquire() end
    raises("as many locks", lock.acquire, lock)
    raises("as many locks", lock.guard, lock, 0)
    raises("as many locks", shared.counter, shared, "new") -- to make one takes locks of the arena's own
    assert.equal(32, #shared:participants()[1].holds)
    all[7]:release()
    lock:acquire()
    lock:release()
    for i = 1, 32 do
      if i ~= 7 then all[i]:release() end
    end
  end)

  it("excludes processes, and times out", function()
    local pid = holder(lock)
    assert.is_true(lock:locked())
    assert.equal(pid, lock:owner())
    assert.same({ false, "timeout" }, { lock:acquire(0) })
    local start = helper.now()
    assert.same({ false, "timeout" }, { lock:acquire(0.25) })
    assert.is_true(helper.now() - start >= 0.25)
    local problem = raises('mutex "books"', lock.guard, lock, 0)
    assert.equal("ETIMEDOUT", problem.code)
    assert.equal(lock, problem.lock)
    assert.equal(shared.address, problem.address)
    assert.equal("ETIMEDOUT", raises("", lock.guard, lock, 0.05).code)
    assert.equal("ETIMEDOUT", raises("", lock.recover, lock, 0).code)
    assert.equal("ETIMEDOUT", raises("", lock.recover, lock, 0.05).code)
    raises("not held by this thread", lock.release, lock)
    support.kill(pid)
    lock:recover():release()
  end)

  it("guards a counter against three processes", function()
    local seg <close> = assert(polyshm.segment("memfd:polyshm-test", { size = 4096 }))
    local count = seg:view("i64", 0, 1)
    local pids = {}
    for i = 1, 3 do
      pids[i] = support.fork(function()
        local own <close> = assert(polyshm.arena(shared.address))
        local mine = i == 1 and lock or own:mutex("books")
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
      local pid, slot = die_holding(lock)
      for _ = 1, 2 do
        for _, timeout in ipairs { 0, 1, false } do
          local problem = raises("the owner died holding it", lock.acquire, lock, timeout or nil)
          assert.equal("EOWNERDEAD", problem.code)
          assert.equal(pid, problem.pid)
          assert.equal(slot, problem.participant)
          assert.equal(lock, problem.lock)
          assert.equal(shared.address, problem.address)
          assert.equal(("%s: mutex \"books\": the owner died holding it (process %d)"):format(shared.address, pid),
            tostring(problem))
        end
        assert.equal("EOWNERDEAD", raises("", lock.guard, lock).code)
        assert.is_false(lock:locked())
        assert.is_nil(lock:owner())
      end
      local other = shared:mutex("books")
      assert.equal(pid, raises("", other.acquire, other).pid)
      do
        local held <close>, died = other:recover()
        assert.equal(pid, died.pid)
        assert.equal(slot, died.participant)
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
      local pid = holder(lock)
      local waiters = {}
      for i = 1, 3 do
        waiters[i] = support.fork(function()
          local mine = shared:mutex("books")
          shared:counter("waiting"):add()
          local ok, problem = pcall(mine.acquire, mine)
          assert(not ok and problem.code == "EOWNERDEAD" and problem.pid == pid)
        end)
      end
      assert.is_true(shared:counter("waiting"):wait(3, 30))
      helper.sleep(0.1)
      support.kill(pid)
      for _, waiter in ipairs(waiters) do assert.same({ "exit", 0 }, { support.wait(waiter) }) end
      local held <close>, died = lock:recover()
      assert.equal(pid, died.pid)
    end)

    it("is an exit, too", function()
      local pid = support.fork(function() lock:acquire() end)
      support.wait(pid)
      assert.equal(pid, raises("", lock.acquire, lock).pid)
      lock:recover():release()
      local how, number = support.lua(([[
        local shared = assert(require "polyshm".arena(%q))
        shared:mutex("books"):acquire()
      ]]):format(shared.address))
      assert.same({ "exit", 0 }, { how, number })
      assert.equal("EOWNERDEAD", raises("", lock.acquire, lock).code)
      lock:recover():release()
    end)

    it("of one that held several marks them all", function()
      local pid = support.fork(function()
        for _, name in ipairs { "a", "b", "c" } do shared:mutex(name):acquire() end
        shared:mutex("b"):release()
        helper.raise(helper.SIGKILL)
      end)
      support.wait(pid)
      for _, name in ipairs { "a", "c" } do
        local one = shared:mutex(name)
        assert.equal(pid, raises("", one.acquire, one).pid)
        one:recover():release()
      end
      assert.is_true(shared:mutex("b"):acquire(0))
      shared:mutex("b"):release()
      assert.same({}, shared:check())
    end)

    it("is repaired by the function of the option", function()
      local calls, mine = {}, nil
      mine = shared:mutex("books", { repair = function(died)
        calls[#calls + 1] = died
        assert(mine:locked() and mine:owner() == helper.getpid())
      end })
      assert.is_true(mine:acquire())
      mine:release()
      assert.equal(0, #calls)
      local pid, slot = die_holding(mine)
      assert.is_true(mine:acquire())
      assert.equal(1, #calls)
      assert.equal(pid, calls[1].pid)
      assert.equal(slot, calls[1].participant)
      assert.equal("EOWNERDEAD", calls[1].code)
      assert.equal(mine, calls[1].lock)
      mine:release()
      pid = die_holding(mine)
      do local held <close> = mine:guard(1) end
      assert.equal(pid, calls[2].pid)
      pid = die_holding(lock)
      assert.is_true(mine:acquire(0))
      mine:release()
      assert.equal(pid, calls[3].pid)
      assert.is_true(lock:acquire(0))
      lock:release()
      assert.equal(3, #calls)
    end)

    it("stays marked where repair raises", function()
      local mine = shared:mutex("books", { repair = function() error({ "mine" }) end })
      local pid = die_holding(mine)
      for _ = 1, 2 do
        for _, verb in ipairs { "acquire", "guard" } do
          local ok, problem = pcall(mine[verb], mine)
          assert.is_false(ok)
          assert.same({ "mine" }, problem)
          assert.is_false(mine:locked())
        end
        assert.equal(pid, raises("", lock.acquire, lock).pid)
      end
      local held, died = mine:recover() -- repairs by hand: the function is not called
      assert.equal(pid, died.pid)
      held:release()
      lock:acquire()
      lock:release()
    end)

    it("survives a repair that is killed, gives the lock away or closes the arena", function()
      local killed = shared:mutex("books", { repair = function() helper.raise(helper.SIGKILL) end })
      local pid = die_holding(killed)
      local second = support.fork(function() killed:acquire() end)
      assert.same({ "signal", helper.SIGKILL }, { support.wait(second) })
      local giving
      giving = shared:mutex("books", { repair = function(died)
        assert.is_true(died.pid == pid or died.pid == second)
        giving:release()
      end })
      raises("not held by this thread", giving.acquire, giving)
      assert.is_false(lock:locked())
      raises("not held by this thread", giving.guard, giving)
      local own = assert(polyshm.arena(shared.address))
      local closing = own:mutex("books", { repair = function() own:close() end })
      assert.is_true(closing:acquire())
      assert.is_true(lock:locked())
      closing:release()
      assert.is_false(lock:locked())
      lock:acquire()
      lock:release()
    end)
  end)

  describe("guard", function()
    it("releases at the end of its block, however that is reached", function()
      do
        local held <close> = lock:guard()
        assert.is_true(lock:locked())
        assert.equal(("polyshm.guard (%s: mutex \"books\")"):format(shared.address), tostring(held))
      end
      assert.is_false(lock:locked())
      raises("inner", function()
        local held <close> = lock:guard()
        error("inner")
      end)
      assert.is_false(lock:locked())
      local thread = coroutine.create(function()
        local held <close> = lock:guard(5)
        coroutine.yield()
      end)
      coroutine.resume(thread)
      assert.is_true(lock:locked())
      raises("already held", lock.guard, lock)
      coroutine.close(thread)
      assert.is_false(lock:locked())
    end)

    it("is ended in a coroutine that an error ended when that is closed or collected", function()
      local function failed()
        local thread = coroutine.create(function()
          local held <close> = lock:guard(5)
          error("inner")
        end)
        assert.is_false(coroutine.resume(thread))
        assert.is_true(lock:locked())
        return thread
      end
      coroutine.close(failed())
      assert.is_false(lock:locked())
      failed()
      collectgarbage()
      collectgarbage()
      assert.is_false(lock:locked())
    end)

    it("says that the lock was gone, and hides no error by it", function()
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

    it("outlives its lock's handle, the arena's, and the lock", function()
      local own = assert(polyshm.arena(shared.address))
      local mine = own:mutex("books")
      local held = mine:guard()
      do local ended <close> = mine end
      raises("mutex is closed", mine.locked, mine)
      raises("mutex is closed", mine.name, mine)
      own:close()
      assert.is_true(lock:locked())
      held:release()
      assert.is_false(lock:locked())
      held = lock:guard()
      assert(shared:delete("books"))
      assert.is_truthy(shared:mutex("books"):acquire(0)) -- another one
      held:release()
      shared:mutex("books"):release()
      assert.same({}, shared:check())
    end)

    it("is collected in any order", function()
      do
        local own = assert(polyshm.arena(shared.address))
        own:mutex("books"):guard()
      end
      collectgarbage()
      collectgarbage()
      assert.is_false(lock:locked())
    end)
  end)

  it("stays held when its handle is collected", function()
    shared:mutex("books"):acquire()
    collectgarbage()
    collectgarbage()
    assert.is_true(lock:locked())
    lock:release() -- the owner is the thread, whatever handle
    assert.is_false(lock:locked())
    local own = assert(polyshm.arena(shared.address))
    own:mutex("books"):acquire()
    own = nil -- luacheck: ignore 311
    collectgarbage()
    collectgarbage()
    assert.is_true(lock:locked())
    lock:release()
  end)

  it("is found, and found to be one", function()
    raises("option repair: function expected", shared.mutex, shared, "books", { repair = 1 })
    raises("option recursive: boolean expected", shared.mutex, shared, "books", { recursive = 1 })
    raises("unknown option 'create'", shared.mutex, shared, "books", { create = true })
    raises("table expected", shared.mutex, shared, "books", true)
    raises("string expected", shared.mutex, shared)
    shared:counter("hits")
    raises("another kind", shared.mutex, shared, "hits")
    local callable = setmetatable({}, { __call = function() end })
    assert.is_truthy(shared:mutex("books", { repair = callable }))
  end)

  it("is not the child's after a fork", function()
    lock:acquire()
    support.in_child(function()
      raises("not held by this thread", lock.release, lock)
      assert(select(2, lock:acquire(0)) == "timeout")
      assert(lock:owner() ~= helper.getpid())
    end)
    assert.equal(helper.getpid(), lock:owner())
    local held = shared:mutex("other"):guard()
    support.in_child(function()
      raises("not held by this thread", held.release, held)
      assert(shared:mutex("other"):locked())
    end)
    assert.is_true(shared:mutex("other"):locked())
    held:release()
    lock:release()
  end)

  it("refuses timeouts that are none", function()
    for _, verb in ipairs { "acquire", "guard", "recover" } do
      for _, wrong in ipairs { -1, -0.001, 0 / 0, -math.huge } do
        raises("timeout must be 0 or more seconds", lock[verb], lock, wrong)
      end
      for _, wrong in ipairs { "1", {}, true } do
        raises("number of seconds expected", lock[verb], lock, wrong)
      end
    end
    assert.is_false(lock:locked())
  end)

  it("lets signals and hooks pass, and ends under a wait", function()
    local pid = holder(lock)
    local alarms = helper.alarm(0.01, 0.01)
    assert.same({ false, "timeout" }, { lock:acquire(0.3) })
    assert.is_true(helper.alarm(0) > alarms)
    for _, verb in ipairs { "acquire", "guard", "recover" } do
      local mine, start, ran = shared:mutex("books"), helper.now(), 0
      debug.sethook(function()
        ran = ran + 1
        if helper.now() - start > 0.15 then
          debug.sethook()
          getmetatable(mine).__gc(mine)
        end
      end, "", 1)
      local ok, problem = pcall(mine[verb], mine)
      debug.sethook()
      assert.is_false(ok)
      assert.is_truthy(tostring(problem):find("mutex is closed", 1, true), tostring(problem))
      assert.is_true(ran > 1)
    end
    support.kill(pid)
    lock:recover():release()
  end)

  for _, where in ipairs { "the main thread", "a coroutine" } do
    it("Ctrl-C ends a wait in " .. where .. ", and the lock is not held", function()
      lock:acquire()
      local how, number, text = support.lua(([[
        local polyshm = require "polyshm"
        local shared <close> = assert(polyshm.arena(%q))
        local lock = shared:mutex("books")
        local function wait()
          shared:counter("waiting"):add()
          lock:acquire()
        end
        local ok, problem = pcall(%s)
        print(ok, tostring(problem):match("interrupted!"))
        if coroutine.running() then print(lock:owner() ~= nil, pcall(lock.release, lock)) end
      ]]):format(shared.address, where == "a coroutine" and "coroutine.wrap(wait)" or "wait"), function(pid)
        assert.is_true(shared:counter("waiting"):wait(1, 30))
        helper.sleep(0.15)
        helper.kill(pid, helper.SIGINT)
      end)
      lock:release()
      assert.equal("exit", how)
      if where == "the main thread" then
        assert.equal(0, number)
        assert.is_truthy(text:find("^false\tinterrupted!\ntrue\tfalse\t.*not held by this thread"), text)
      else
        -- The hook of the main thread is still there when the coroutine is back, and raises once more.
        assert.is_truthy(text:find("interrupted!", 1, true), text)
      end
      assert.is_true(lock:acquire(0))
      lock:release()
    end)
  end
end)
