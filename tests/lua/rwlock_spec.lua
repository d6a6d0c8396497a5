-- SPDX-License-Identifier: MIT
-- Read-write locks: many read or one writes, downgrade, the death of either, recover, repair and guards.
-- luacheck: ignore 211/held 211/again
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("rwlock", function()
  local shared, rw
  before_each(function()
    shared = assert(polyshm.arena(support.posix(), { create = true, size = "1M", participants = 16 }))
    rw = shared:rwlock("books")
  end)
  after_each(function()
    polyshm.unlink(shared.address)
    shared:close()
  end)
  support.watch { before_each = before_each, after_each = after_each }

  -- Can another process not have it?
  local function taken(side)
    local pid = support.fork(function()
      local got = side:acquire(0)
      if got then side:release() end
      helper.exit(got and 0 or 3)
    end)
    local _, number = support.wait(pid)
    return number == 3
  end

  local function killed_in(body)
    local ready = shared:counter("ready")
    ready:store(0)
    local pid = support.fork(function()
      body()
      ready:add()
      helper.sleep(60)
    end)
    assert.is_true(ready:wait(1, 30))
    assert.same({ "signal", helper.SIGKILL }, { support.kill(pid) })
    return pid
  end

  it("has a name and two sides", function()
    assert.equal("books", rw:name())
    assert.equal(rw.read, rw.read)
    assert.not_equal(rw.read, rw.write)
    assert.is_nil(rw.nothing)
    assert.equal("books", shared:open("books"):name())
    assert.truthy(tostring(rw):find("rwlock \"books\"", 1, true))
    assert.truthy(tostring(rw.read):find("books", 1, true))
    raises("another kind", function() shared:mutex("books") end)
    raises("repair", function() shared:rwlock("books", { repair = 1 }) end)
  end)

  it("is read by many", function()
    assert.equal(1, select("#", rw.read:acquire()))
    assert.is_true(rw.read:locked())
    assert.is_false(rw.write:locked())
    assert.is_nil(rw.read:owner())
    assert.is_nil(rw.write:owner())
    assert.is_false(taken(rw.read))
    assert.is_true(taken(rw.write))
    do local held <close> = rw.read:guard() end
    raises("already held", function() rw.write:acquire() end)
    assert.same({ false, "held" }, { rw.write:acquire(0) })
    assert.equal(0, select("#", rw.read:release()))
    raises("not held", function() rw.read:release() end)
    assert.is_false(taken(rw.write))
  end)

  it("is written by one", function()
    do
      local held <close> = rw.write:guard()
      assert.is_true(rw.write:locked())
      assert.is_false(rw.read:locked())
      assert.equal(helper.getpid(), rw.write:owner())
      assert.is_true(taken(rw.read))
      assert.is_true(taken(rw.write))
      raises("already held", function() rw.read:acquire() end)
      raises("not held", function() rw.read:release() end)
    end
    raises("not held", function() rw.write:release() end)
    assert.is_false(taken(rw.write))
  end)

  it("waits no longer than it is told", function()
    assert(rw.write:acquire())
    local how, number = support.wait(support.fork(function()
      local got, why = rw.read:acquire(0.02)
      helper.exit(got == false and why == "timeout" and 0 or 1)
    end))
    assert.same({ "exit", 0 }, { how, number })
    rw.write:release()
  end)

  it("is downgraded in a guard", function()
    do
      local held <close> = rw.write:guard()
      rw:downgrade()
      assert.is_false(taken(rw.read))
      assert.is_true(taken(rw.write))
    end
    assert.is_false(taken(rw.write))
    raises("not held", function() rw:downgrade() end)
    assert(rw.write:acquire())
    rw:downgrade()
    rw.read:release()
    assert.is_false(taken(rw.write))
  end)

  it("does not mind the death of a reader", function()
    killed_in(function() assert(rw.read:acquire()) end)
    assert.is_true(rw.write:acquire(0))
    rw.write:release()
    killed_in(function()
      assert(rw.write:acquire())
      rw:downgrade()
    end)
    assert.is_true(rw.write:acquire(0))
    rw.write:release()
  end)

  for _, side in ipairs { "read", "write" } do
    it("tells of a writer's death, and is recovered by " .. side, function()
      local lock = rw[side]
      local pid = killed_in(function() assert(rw.write:acquire()) end)
      for _, one in ipairs { rw.read, rw.write } do
        local ok, died = pcall(one.acquire, one)
        assert.is_false(ok)
        assert.equal("EOWNERDEAD", died.code)
        assert.equal(pid, died.pid)
        assert.equal(one, died.lock)
      end
      assert.is_false(pcall(function()
        local held <close> = lock:recover()
        error("torn still")
      end))
      assert.is_false(pcall(lock.acquire, lock))
      do
        local held <close>, died = lock:recover()
        assert.equal(pid, died.pid)
        assert.is_true(taken(rw.read))
        if side == "write" then
          local ok, why = pcall(rw.downgrade, rw)
          assert.is_false(ok)
          assert.equal("EOWNERDEAD", why.code)
        end
      end
      do
        local held <close>, died = lock:recover()
        assert.is_nil(died)
      end
      assert.is_false(taken(rw.write))
    end)

    it("is repaired by " .. side, function()
      local seen = {}
      local mended = shared:rwlock("books", { repair = function(died) seen[#seen + 1] = died.pid end })
      local pid = killed_in(function() assert(rw.write:acquire()) end)
      do
        local held <close> = mended[side]:guard()
        assert.equal(side == "write", taken(rw.read))
      end
      assert.same({ pid }, seen)
      assert.is_false(taken(rw.write))
    end)
  end

  it("is not the child's", function()
    assert(rw.read:acquire())
    assert.same({ "exit", 0 }, { support.wait(support.fork(function()
      helper.exit(not pcall(rw.read.release, rw.read) and rw.read:acquire(5) and 0 or 1)
    end)) })
    rw.read:release()
  end)

  it("is released after its arena is closed, and outlives its handle", function()
    local other = assert(polyshm.arena(shared.address))
    local side = other:rwlock("books").read
    collectgarbage()
    collectgarbage()
    assert(side:acquire())
    other:close()
    raises("closed", function() side:acquire() end)
    side:release()
    assert.is_false(taken(rw.write))
  end)

  it("is deleted", function()
    shared:delete("books")
    local ok, why = pcall(rw.read.acquire, rw.read)
    assert.is_false(ok)
    assert.equal("EDELETED", why.code)
    ok, why = pcall(rw.write.locked, rw.write)
    assert.is_false(ok)
    assert.equal("EDELETED", why.code)
  end)

  it("is shown by participants", function()
    assert(rw.read:acquire())
    local holds
    for _, one in ipairs(shared:participants()) do
      if one.self then holds = one.holds end
    end
    assert.same({ "books" }, holds)
    rw.read:release()
  end)
end)
