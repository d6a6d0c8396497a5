-- SPDX-License-Identifier: MIT
-- Typed views: every type and byte order, ranges, bulk operations, and their life.
-- luacheck: ignore 211/inner
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

-- token, string.pack's letter, size, smallest, largest
local types = {
  { "i8", "i1", 1, -128, 127 }, { "u8", "I1", 1, 0, 255 }, { "i16", "i2", 2, -32768, 32767 },
  { "u16", "I2", 2, 0, 65535 }, { "i32", "i4", 4, -0x80000000, 0x7fffffff }, { "u32", "I4", 4, 0, 0xffffffff },
  { "i64", "i8", 8, math.mininteger, math.maxinteger }, { "u64", "j", 8, math.mininteger, math.maxinteger },
  { "f32", "f", 4 }, { "f64", "d", 8 },
}

describe("view", function()
  local seg
  before_each(function() seg = assert(polyshm.segment("anon:", { size = 4096 })) end)
  after_each(function() seg:close() end)
  support.watch { before_each = before_each, after_each = after_each }

  for _, row in ipairs(types) do
    local token, letter, size, low, high = table.unpack(row)
    for _, order in ipairs { "", "=", "<", ">" } do
      it(order .. token .. " holds what string.pack writes", function()
        local view = seg:view(order .. token, 3, 10)
        local format = order .. letter
        local values = low and { low, high, 0, 1, high // 3, low // 3 } or { 0.0, 1.5, -2.25, 1 / 0, -1 / 0, 0.1 }
        for i, value in ipairs(values) do
          view[i] = value
          local bytes = string.pack(format, value)
          assert.equal(bytes, seg:read(3 + (i - 1) * size, size))
          local back = string.unpack(format, bytes)
          assert.equal(back, view[i])
          assert.equal(math.type(back), math.type(view[i]))
          assert.equal(back, (view:get(i)))
        end
        seg:write(3, string.pack(format, values[2]))
        assert.equal(string.unpack(format, string.pack(format, values[2])), view[1])
      end)
    end

    it(token .. " takes a value that fits, and no other", function()
      local view = seg:view(token, 0, 4)
      view[1] = 3.0
      assert.equal(3, view[1])
      assert.equal(low and "integer" or "float", math.type(view[1]))
      view[2] = 7
      assert.equal(7, view[2])
      if low then
        raises("does not fit the element type " .. token, function() view[1] = 3.5 end)
        raises("does not fit", function() view[1] = 0 / 0 end)
        raises("does not fit", function() view[1] = 1e300 end)
        raises("does not fit", function() view[1] = 2.0 ^ 63 end)
        if size < 8 then
          raises(token, function() view[1] = high + 1 end)
          raises("does not fit", function() view[1] = low - 1 end)
          raises("does not fit", view.fill, view, high + 1)
          raises("does not fit", view.set, view, 1, 1, low - 1)
        end
      else
        view[1] = 0 / 0
        assert.is_true(view[1] ~= view[1])
        view[1] = math.maxinteger
        assert.equal(math.type(view[1]), "float")
      end
      for _, wrong in ipairs { "1", {}, true, print } do
        raises("number expected for " .. token, function() view[1] = wrong end)
      end
      raises("got nil", function() view[1] = nil end)
      assert.equal(7, view[2])
    end)
  end

  it("f32 takes no number beyond its range", function()
    local view = seg:view("f32", 0, 1)
    view[1] = 3.4e38
    raises("does not fit the element type f32", function() view[1] = 3.5e38 end)
    raises("does not fit", function() view[1] = -1e300 end)
  end)

  it("u64 is the two's complement", function()
    local view = seg:view("u64", 0, 1)
    view[1] = -1
    assert.equal(("\xff"):rep(8), seg:read(0, 8))
    assert.equal(-1, view[1])
    assert.is_true(math.ult(1, view[1]))
  end)

  it("counts from 1: nil one past the end, an error elsewhere", function()
    local view = seg:view("i32", 0, 5)
    assert.equal(5, #view)
    assert.equal(0, view[1])
    assert.equal(0, view[5.0])
    assert.is_nil(view[6])
    for _, i in ipairs { 0, -1, 7, math.maxinteger, math.mininteger, 2 ^ 53 } do
      raises("index out of range (1 to 5)", function() return view[i] end)
    end
    for _, i in ipairs { 0, -1, 6, 7, math.maxinteger, math.mininteger, 1.5, "1", "x" } do
      raises("index out of range", function() view[i] = 0 end)
    end
    assert.is_nil(view[1.5])
    assert.is_nil(view[0 / 0])
    assert.is_nil(view["1"])
    assert.is_nil(view.nothing)
    local n = 0
    for i, x in ipairs(view) do
      n = n + 1
      assert.same({ n, 0 }, { i, x })
    end
    assert.equal(5, n)
  end)

  it("has defaults, and may be empty", function()
    assert.equal(4096, #seg:view("u8"))
    assert.equal(512, #seg:view("f64"))
    assert.equal(511, #seg:view("f64", 1))
    assert.equal(0, #seg:view("f64", 4095))
    local empty = seg:view("f64", 4096, 0)
    assert.equal(0, #empty)
    assert.is_nil(empty[1])
    raises("index out of range", function() return empty[2] end)
    assert.same({}, empty:totable())
    empty:fill(1)
    for _ in empty:each() do error("nothing to see") end
    raises("outside the segment", seg.view, seg, "f64", 0, 513)
    raises("outside the segment", seg.view, seg, "f64", 4096, 1)
    raises("outside the segment", seg.view, seg, "f64", 0, math.maxinteger)
    raises("outside the segment", seg.view, seg, "u8", math.maxinteger, math.maxinteger)
    raises('view type "f16"', seg.view, seg, "f16")
    raises('view type ""', seg.view, seg, "")
    raises('view type "<"', seg.view, seg, "<")
  end)

  it("get and set take many", function()
    local view = seg:view("i16", 0, 10)
    view:set(3, 1, 2, 3)
    assert.same({ 1, 2, 3 }, { view:get(3, 5) })
    assert.same({ 0 }, { view:get() })
    assert.same({ 2 }, { view:get(4) })
    assert.same({}, { view:get(5, 4) })
    assert.same({}, { view:get(100, 4) })
    view:set(1)
    view:set(11)
    raises("index out of range", view.get, view, 0, 3)
    raises("index out of range", view.get, view, 9, 11)
    raises("index out of range", view.get, view, 11)
    raises("index out of range", view.set, view, 9, 1, 2, 3)
    raises("index out of range", view.set, view, 0, 1)
    raises("index out of range", view.set, view, math.maxinteger, 1, 2)
    raises("got string", view.set, view, 1, 5, "x")
    assert.equal(0, view[1]) -- nothing is written unless everything fits
    assert.same({ 0, 0, 1, 2, 3, 0, 0, 0, 0, 0 }, view:totable())
    assert.same({ 2, 3, 0 }, view:totable(4, 6))
    assert.same({}, view:totable(4, 3))
    raises("index out of range", view.totable, view, 4, 11)
    assert.same({ -1 }, (function()
      view[1] = -1
      return view:totable(1, 1)
    end)())
    raises("too many", function()
      local big <close> = assert(polyshm.segment("anon:", { size = "64M", reserve = false }))
      return big:view("u8"):get(1, 64 << 20)
    end)
  end)

  it("fills in every size", function()
    for _, row in ipairs(types) do
      local view = seg:view(">" .. row[1], 1, 9)
      view:fill(0)
      view:fill(5, 3, 7)
      assert.same({ 0, 0, 5, 5, 5, 5, 5, 0, 0 }, view:totable())
      view:fill(1, 9, 8)
      view:fill(2, 9)
      assert.same({ 0, 0, 5, 5, 5, 5, 5, 0, 2 }, view:totable())
      raises("index out of range", view.fill, view, 1, 0)
      raises("index out of range", view.fill, view, 1, 1, 10)
    end
  end)

  it("copies, where it overlaps and to other segments", function()
    local view = seg:view("u16", 0, 8)
    view:set(1, 1, 2, 3, 4, 5, 6, 7, 8)
    view:copy(view, 1, 6, 3)
    assert.same({ 1, 2, 1, 2, 3, 4, 5, 6 }, view:totable())
    view:copy(view, 3, 8)
    assert.same({ 1, 2, 3, 4, 5, 6, 5, 6 }, view:totable())
    local other <close> = assert(polyshm.segment("anon:", { size = 16 }))
    local target = other:view("u16")
    view:copy(target)
    assert.same(view:totable(), target:totable())
    view:copy(target, 2, 1)
    view:copy(target, 1, 1, 8)
    assert.equal(1, target[8])
    raises("index out of range", view.copy, view, target, 1, 8, 2)
    raises("index out of range", view.copy, view, target, 1, 1, 9)
    raises("index out of range", view.copy, view, target, 1, 1, 0)
    raises("index out of range", view.copy, view, target, 1, 9)
    raises("same type and byte order", view.copy, view, seg:view("i16"))
    raises("same type and byte order", view.copy, view, seg:view(">u16"))
    raises("polyshm.view expected", view.copy, view, {})
    raises("polyshm.view expected", view.copy, view, seg)
  end)

  it("slices share memory", function()
    local view = seg:view("i32", 4, 10)
    local slice = view:slice(3, 5)
    assert.equal(3, #slice)
    slice[1] = 33
    assert.equal(33, view[3])
    assert.is_nil(slice[4])
    local inner = slice:slice(1, 1)
    assert.equal(33, inner[1])
    assert.equal(10, #view:slice())
    assert.equal(0, #view:slice(5, 4))
    assert.equal(8, #view:slice(3))
    raises("index out of range", view.slice, view, 1, 11)
    raises("index out of range", view.slice, view, 0, 1)
    seg:close()
    view:close()
    assert.equal(33, slice:slice(1, 1)[1])
  end)

  it("each gives indexes and elements", function()
    local view = seg:view("f64", 0, 3)
    view:set(1, 1.5, 2.5, 3.5)
    local seen = {}
    for i, x in view:each() do seen[#seen + 1] = { i, x } end
    assert.same({ { 1, 1.5 }, { 2, 2.5 }, { 3, 3.5 } }, seen)
    for i in view:each() do if i == 2 then break end end
    raises("view is closed", function() for _ in view:each() do view:close() end end)
  end)

  it("keeps its segment, closes once and twice", function()
    local view = assert(polyshm.segment("anon:", { size = 8 })):view("u8")
    collectgarbage()
    collectgarbage()
    view[8] = 8
    assert.equal(8, view[8])
    do
      local inner <close> = view:slice(8)
      assert.equal(8, inner[1])
    end
    assert.is_truthy(tostring(view):find("polyshm.view (anon:, 8 elements at 0)", 1, true))
    view:close()
    view:close()
    assert.equal("polyshm.view (closed)", tostring(view))
    for _, method in ipairs { "get", "set", "fill", "copy", "totable", "slice", "each" } do
      raises("view is closed", view[method], view, 1, 1)
    end
    raises("view is closed", function() return view[1] end)
    raises("view is closed", function() view[1] = 1 end)
    raises("view is closed", function() return #view end)
  end)

  it("obeys what protect does to the part that it touches", function()
    local page = helper.PAGE
    local big <close> = assert(polyshm.segment("anon:", { size = 3 * page }))
    local view = big:view("u8")
    assert(big:protect("r", page, page))
    view[1] = 1
    view[2 * page + 1] = 1
    raises("read-only", function() view[page + 1] = 1 end)
    assert.equal(0, view[page + 1])
    raises("read-only", view.fill, view, 1)
    view:fill(2, 1, page)
    assert(big:protect("none", page, page))
    raises("may not be accessed", function() return view[page + 1] end)
    raises("may not be accessed", view.totable, view)
    raises("may not be accessed", view.copy, view, big:view("u8", 0, 1), page + 1, page + 1)
    assert.equal(2, view[page])
    for _ in view:slice(1, page):each() do end
    assert(big:protect("rw"))
    view:fill(3)
    assert.equal(3, view[page + 1])
  end)

  it("does the same as tables, at random, seed " .. support.seed, function()
    math.randomseed(support.seed)
    local random = math.random
    for _ = 1, 300 do
      local row = types[random(8)]
      local low, high = row[4], row[5]
      local order = ({ "", "<", ">" })[random(3)]
      local n = random(0, 30)
      local offset = random(0, 50)
      local view = seg:view(order .. row[1], offset, n)
      view:fill(0)
      local model = {}
      for i = 1, n do model[i] = 0 end
      for _ = 1, n do
        local i, j, what = random(n), random(n), random(4)
        local value = random(low, high)
        if what == 1 then
          view[i], model[i] = value, value
        elseif what == 2 then
          view:fill(value, i, j)
          for k = i, j do model[k] = value end
        elseif what == 3 and i <= j then
          local at = random(n - (j - i))
          view:copy(view, i, j, at)
          table.move(model, i, j, at)
        else
          local count = random(0, n - i + 1)
          local values = {}
          for k = 1, count do
            values[k] = random(low, high)
            model[i + k - 1] = values[k]
          end
          view:set(i, table.unpack(values))
        end
      end
      assert.same(model, view:totable())
      local i, j = n > 0 and random(n) or 1, n > 0 and random(n) or 0
      assert.same(table.move(model, i, j, 1, {}), { view:get(i, j) })
      assert.same(table.move(model, i, j, 1, {}), view:slice(i, j):totable())
      view:close()
    end
  end)
end)
