-- SPDX-License-Identifier: MIT
-- Participants: who takes part, what they hold and wait for, and their end.
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("participant", function()
  local shared
  before_each(function()
    shared = assert(polyshm.arena(support.posix(), { create = true, size = "1M", participants = 4 }))
  end)
  after_each(function()
    polyshm.unlink(shared.address)
    shared:close()
  end)
  support.watch { before_each = before_each, after_each = after_each }

  local function of(pid)
    for _, one in ipairs(shared:participants()) do
      if one.pid == pid then return one end
    end
  end

  -- A child that holds the locks and lives.
  local function holder(...)
    local names = { ... }
    local ready = shared:counter("ready")
    ready:store(0)
    local pid = support.fork(function()
      for _, name in ipairs(names) do shared:mutex(name):acquire() end
      ready:add()
      helper.sleep(60)
    end)
    assert.is_true(ready:wait(1, 30))
    return pid
  end

  it("is there once its thread takes part", function()
    shared:mutex("books"):acquire()
    local all = shared:participants()
    assert.equal(1, #all)
    local me = all[1]
    assert.equal(helper.getpid(), me.pid)
    assert.equal(helper.getpid(), me.thread)
    assert.equal("lua", me.language)
    assert.is_true(me.alive)
    assert.is_true(me.self)
    assert.same({ "books" }, me.holds)
    assert.is_nil(me.waits)
    assert.equal("integer", math.type(me.slot))
    assert.equal("integer", math.type(me.generation))
    assert.is_nil(me.nothing)
    assert.is_truthy(tostring(me):find(("process %d, alive"):format(helper.getpid()), 1, true))
    shared:mutex("books"):release()
    assert.same({ "books" }, me.holds) -- as it was
    assert.same({}, shared:participants()[1].holds)
  end)

  it("shows what it holds and waits for", function()
    local pid = holder("a", "b")
    local other = of(pid)
    assert.is_false(other.self)
    assert.is_true(other.alive)
    table.sort(other.holds)
    assert.same({ "a", "b" }, other.holds)
    assert.is_nil(other.waits)
    local waiter = support.fork(function() shared:mutex("a"):acquire() end)
    support.until_true(function()
      local one = of(waiter)
      return one and one.waits == "a"
    end)
    assert.same({}, of(waiter).holds)
    support.kill(waiter)
    support.kill(pid)
    shared:mutex("a"):recover():release()
    shared:mutex("b"):recover():release()
  end)

  it("is dead when it was killed, and gone when its place is needed", function()
    local pid = holder("a")
    local other = of(pid)
    support.kill(pid)
    assert.is_true(other.alive) -- as it was
    assert.is_true(other:wait())
    assert.is_true(other:wait(0))
    local now = of(pid)
    if now then assert.is_false(now.alive) end
    -- There is room for four at a time, and for as many as one likes one after the other.
    for _ = 1, 12 do support.kill(holder("b" .. shared:counter("n"):add())) end
    assert.equal(pid, support.raises("died", shared:mutex("a").acquire, shared:mutex("a")).pid)
    shared:mutex("a"):recover():release()
    assert.same({}, shared:check())
  end)

  it("is waited for", function()
    shared:counter("n"):add()
    local me = of(helper.getpid())
    assert.same({ false, "timeout" }, { me:wait(0) })
    local pid = holder("a")
    local other = of(pid)
    assert.same({ false, "timeout" }, { other:wait(0) })
    local start = helper.now()
    assert.same({ false, "timeout" }, { other:wait(0.25) })
    assert.is_true(helper.now() - start >= 0.25)
    local killer = support.fork(function()
      helper.sleep(0.2)
      helper.kill(pid, helper.SIGKILL)
    end)
    assert.is_true(other:wait(30))
    support.wait(killer)
    support.wait(pid)
    pid = support.fork(function()
      shared:counter("n"):add()
      shared:counter("go"):wait(1, 30)
    end)
    assert.is_true(shared:counter("n"):wait(2, 30))
    other = of(pid)
    shared:counter("go"):add()
    assert.is_true(other:wait())
    assert.same({ "exit", 0 }, { support.wait(pid) })
    raises("0 or more seconds", other.wait, other, -1)
    raises("number of seconds", other.wait, other, "1")
    shared:mutex("a"):recover():release()
  end)

  it("is no more than there is room for", function()
    local pids = {}
    shared:counter("n"):add()
    for i = 1, 3 do pids[i] = holder("m" .. i) end
    assert.equal(4, #shared:participants())
    support.in_child(function()
      local lock = shared:mutex("m1")
      raises("as many threads", lock.acquire, lock, 0)
      raises("as many threads", lock.guard, lock, 0)
      raises("as many threads", shared.counter, shared, "new")
      raises("as many threads", shared.alloc_into, shared, shared:root(1), 10)
      assert(shared:counter("n"):load() == 1)
    end)
    support.kill(pids[2])
    support.in_child(function()
      assert(shared:counter("n"):add() == 2)
      shared:mutex("new"):guard():release()
    end)
    for i = 1, 3 do
      if i ~= 2 then support.kill(pids[i]) end
      shared:mutex("m" .. i):recover():release()
    end
  end)

  it("lets hooks run while it is waited for, and Ctrl-C", function()
    local pid = holder("a")
    local other, ran = of(pid), 0
    debug.sethook(function() ran = ran + 1 end, "", 1)
    assert.same({ false, "timeout" }, { other:wait(0.35) })
    debug.sethook()
    assert.is_true(ran > 1)
    local how, number, text = support.lua(([[
      local polyshm = require "polyshm"
      local shared <close> = assert(polyshm.arena(%q))
      shared:counter("waiting"):add()
      for _, one in ipairs(shared:participants()) do
        if one.pid == %d then print(pcall(one.wait, one)) end
      end
    ]]):format(shared.address, pid), function(child)
      assert.is_true(shared:counter("waiting"):wait(1, 30))
      helper.sleep(0.15)
      helper.kill(child, helper.SIGINT)
    end)
    assert.same({ "exit", 0 }, { how, number })
    assert.is_truthy(text:find("^false\t.*interrupted!"), text)
    support.kill(pid)
    shared:mutex("a"):recover():release()
  end)

  it("has a handle that ends", function()
    shared:counter("n"):add()
    local me = shared:participants()[1]
    do local ended <close> = me end -- luacheck: ignore 211
    raises("participant is closed", me.wait, me)
    raises("participant is closed", function() return me.pid end)
    assert.equal("polyshm.participant (closed)", tostring(me))
  end)
end)
