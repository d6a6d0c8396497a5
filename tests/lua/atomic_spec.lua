-- SPDX-License-Identifier: MIT
-- Atomic words: arithmetic, ranges, between processes, waiting.
-- luacheck: ignore 211/inner
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("atomic", function()
  local seg
  before_each(function() seg = assert(polyshm.segment("anon:", { size = 4096 })) end)
  after_each(function() seg:close() end)
  support.watch { before_each = before_each, after_each = after_each }

  local words = {
    i32 = { size = 4, format = "i4", low = -0x80000000, high = 0x7fffffff },
    u32 = { size = 4, format = "I4", low = 0, high = 0xffffffff },
    i64 = { size = 8, format = "i8", low = math.mininteger, high = math.maxinteger },
    u64 = { size = 8, format = "j", low = math.mininteger, high = math.maxinteger },
  }

  -- A value as the word keeps it.
  local function wrap(name, value)
    if name == "i32" then
      value = value & 0xffffffff
      return value >= 0x80000000 and value - 0x100000000 or value
    end
    return name == "u32" and value & 0xffffffff or value
  end

  for name, word in pairs(words) do
    it(name .. " gives the previous value, and wraps", function()
      local a = seg:atomic(name, 64)
      assert.equal(0, a:load())
      assert.equal(0, select("#", a:store(5)))
      assert.equal(string.pack("=" .. word.format, 5), seg:read(64, word.size))
      assert.equal(5, a:add(3))
      assert.equal(8, a:sub(2))
      assert.equal(6, a:and_(3))
      assert.equal(2, a:or_(8))
      assert.equal(10, a:xor(2))
      assert.equal(8, a:exchange(100))
      assert.equal(100, a:compare_exchange(99, 1))
      assert.equal(100, a:load())
      assert.equal(100, a:compare_exchange(100, 1))
      assert.equal(1, a:load())
      a:store(word.high)
      assert.equal(word.high, a:add(1))
      assert.equal(wrap(name, word.high + 1), a:load())
      a:store(word.low)
      assert.equal(word.low, a:sub(1))
      assert.equal(wrap(name, word.low - 1), a:load())
      a:store(0)
      a:add(-1)
      assert.equal(wrap(name, -1), a:load())
      a:store(0)
      a:or_(word.size == 4 and 0xffffffff or -1)
      assert.equal(wrap(name, -1), a:load())
      a:and_(-2)
      assert.equal(wrap(name, -2), a:load())
      a:xor(-1)
      assert.equal(1, a:load())
      assert.equal("integer", math.type(a:load()))
      assert.equal(("polyshm.atomic (anon:, %s at 64)"):format(name), tostring(a))
    end)

    it(name .. " takes values of its range alone", function()
      local a = seg:atomic(name, 64)
      for _, verb in ipairs { "store", "exchange", "add", "sub", "and_", "or_", "xor" } do
        for _, wrong in ipairs { 1.5, 0 / 0, 1e300, 2.0 ^ 64 } do
          raises("does not fit " .. name, a[verb], a, wrong)
        end
        for _, wrong in ipairs { "1", {}, true } do raises("integer expected", a[verb], a, wrong) end
        raises("integer expected", a[verb], a)
      end
      if word.size == 4 then
        for _, wrong in ipairs { word.high + 1, word.low - 1 } do
          raises("does not fit " .. name, a.store, a, wrong)
          raises("does not fit", a.exchange, a, wrong)
          raises("does not fit", a.compare_exchange, a, wrong, 0)
          raises("does not fit", a.compare_exchange, a, 0, wrong)
          raises("does not fit", a.wait, a, wrong, 0)
        end
        raises("does not fit", a.add, a, 1 << 32)
        raises("does not fit", a.sub, a, -0x80000001)
      end
      a:store(3.0)
      assert.equal(3, a:load())
    end)

    it(name .. " does the same as Lua's integers, at random, seed " .. support.seed, function()
      math.randomseed(support.seed)
      local a, model = seg:atomic(name, 8), 0
      local verbs = {
        add = function(x, y) return x + y end, sub = function(x, y) return x - y end,
        and_ = function(x, y) return x & y end, or_ = function(x, y) return x | y end,
        xor = function(x, y) return x ~ y end, exchange = function(_, y) return y end,
      }
      for _ = 1, 500 do
        for verb, f in pairs(verbs) do
          local value = math.random(word.low, word.high)
          assert.equal(model, a[verb](a, value))
          model = wrap(name, f(model, value))
          assert.equal(model, a:load())
        end
      end
    end)

    it(name .. " is not torn between processes", function()
      local a, started = seg:atomic(name, 128), seg:atomic("u32", 256)
      local pids = {}
      for i = 1, 3 do
        pids[i] = support.fork(function()
          started:add(1)
          while started:load() < 3 do end
          for _ = 1, 20000 do a:add(7) end
          for _ = 1, 20000 do a:sub(2) end
        end)
      end
      for _, pid in ipairs(pids) do assert.same({ "exit", 0 }, { support.wait(pid) }) end
      assert.equal(3 * 20000 * 5, a:load())
    end)
  end

  it("is where it is aligned, inside, and writable", function()
    raises("offset 2: offset is not aligned", seg.atomic, seg, "i32", 2)
    raises("offset is not aligned", seg.atomic, seg, "u64", 4)
    raises("outside the segment", seg.atomic, seg, "u64", 4096)
    raises("outside the segment", seg.atomic, seg, "u32", 4094)
    raises('atomic type "i16"', seg.atomic, seg, "i16", 0)
    raises("offset", seg.atomic, seg, "i32")
    local address = support.posix()
    local rw <close> = assert(polyshm.segment(address, { size = 64, create = true }))
    local r <close> = assert(polyshm.segment(address, { access = "r" }))
    local a = r:atomic("u32", 0)
    rw:atomic("u32", 0):store(9)
    assert.equal(9, a:load())
    for _, verb in ipairs { "store", "add", "sub", "and_", "or_", "xor", "exchange" } do
      raises("read-only", a[verb], a, 1)
    end
    raises("read-only", a.compare_exchange, a, 1, 2)
    assert.is_true(a:wait(8, 0))
    rw:unlink()
  end)

  it("goes with its segment", function()
    local a = seg:atomic("u32", 0)
    local b = assert(polyshm.segment("anon:", { size = 8 })):atomic("u32", 0)
    collectgarbage()
    collectgarbage()
    b:store(1)
    assert.equal(1, b:load())
    seg:close()
    for _, verb in ipairs { "load", "store", "add", "exchange", "notify" } do
      raises("segment is closed", a[verb], a, 1)
    end
    raises("segment is closed", a.wait, a, 1, 0)
    raises("segment is closed", a.compare_exchange, a, 1, 1)
    do local inner <close> = b end
    raises("atomic is closed", b.load, b)
    assert.equal("polyshm.atomic (closed)", tostring(b))
  end)

  it("waits until the word differs, is told, or time is up", function()
    local a = seg:atomic("u32", 0)
    assert.is_true(a:wait(1))
    assert.same({ false, "timeout" }, { a:wait(0, 0) })
    local start = helper.now()
    assert.same({ false, "timeout" }, { a:wait(0, 0.25) })
    assert.is_true(helper.now() - start >= 0.25)
    assert.equal(0, a:notify())
    assert.equal(0, a:notify(0))
    assert.equal(0, a:notify(math.maxinteger))
    local pid = support.fork(function()
      assert(a:wait(0, 20) == true)
      a:store(2)
      assert(a:notify() <= 1)
    end)
    helper.sleep(0.02)
    a:store(1)
    a:notify(5)
    assert.is_true(a:wait(1, 20))
    assert.equal(2, a:load())
    support.wait(pid)
    raises("must not be negative", a.notify, a, -1)
    for _, wrong in ipairs { -1, 0 / 0, -math.huge } do raises("timeout must be", a.wait, a, 0, wrong) end
    raises("number of seconds expected", a.wait, a, 0, "1")
    local long = seg:atomic("i64", 8)
    raises("wait needs a 32-bit word, not i64", long.wait, long, 0)
    raises("notify needs a 32-bit word", long.notify, long)
  end)

  it("counts whom it wakes", function()
    local a, ready = seg:atomic("i32", 0), seg:atomic("u32", 4)
    local pids = {}
    for i = 1, 3 do
      pids[i] = support.fork(function()
        ready:add(1)
        assert(a:wait(0, 20))
      end)
    end
    support.until_true(function() return ready:load() == 3 end)
    -- The word stays, so whoever is woken sleeps again: at last all three do at the same time.
    support.until_true(function() return a:notify(2) == 2 end)
    support.until_true(function() return a:notify(10) == 3 end)
    a:store(-7)
    a:notify(3)
    for _, pid in ipairs(pids) do assert.same({ "exit", 0 }, { support.wait(pid) }) end
  end)

  it("lets hooks run while it waits, and they may end it", function()
    local a = seg:atomic("u32", 0)
    local calls = 0
    local start = helper.now()
    debug.sethook(function()
      if helper.now() - start > 0.15 then
        debug.sethook()
        calls = calls + 1
        seg:close()
      end
    end, "c")
    raises("segment is closed", a.wait, a, 0, 20)
    debug.sethook()
    assert.equal(1, calls)
    assert.is_true(helper.now() - start < 5)
  end)
end)
