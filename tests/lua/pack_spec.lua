-- SPDX-License-Identifier: MIT
-- pack and unpack against string.pack and string.unpack.
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("pack", function()
  local SIZE = 4096
  local seg
  before_each(function() seg = assert(polyshm.segment("anon:", { size = SIZE })) end)
  after_each(function() seg:close() end)
  support.watch { before_each = before_each, after_each = after_each }

  -- Writes at `offset` what string.pack says, nothing else, and reads it back.
  local function same(offset, format, ...)
    local expected = string.pack(format, ...)
    seg:fill(0xEE)
    local next_offset = seg:pack(format, offset, ...)
    assert.equal(offset + #expected, next_offset)
    assert.equal(("\xEE"):rep(offset) .. expected .. ("\xEE"):rep(SIZE - offset - #expected), seg:read())
    local wanted = table.pack(string.unpack(format, expected))
    wanted[wanted.n] = offset + wanted[wanted.n] - 1
    local got = table.pack(seg:unpack(format, offset))
    assert.equal(wanted.n, got.n)
    for i = 1, wanted.n do
      if wanted[i] == wanted[i] then
        assert.equal(wanted[i], got[i])
      else
        assert.is_true(got[i] ~= got[i])
      end
      assert.equal(math.type(wanted[i]), math.type(got[i]))
    end
  end

  it("writes every option", function()
    for _, order in ipairs { "", "<", ">", "=", "!", "<!4", ">!8", "!2", "!16", " " } do
      for _, option in ipairs { "b", "h", "i", "l", "j", "i1", "i2", "i3", "i4", "i7", "i8", "i9", "i16" } do
        if not (order:find "!" and option:find "[379]") then
          same(5, order .. option, -3)
          same(0, order .. option, 127)
        end
      end
      for _, option in ipairs { "B", "H", "I", "L", "J", "T", "I1", "I2", "I3", "I4", "I7", "I8", "I9", "I16" } do
        if not (order:find "!" and option:find "[379]") then same(5, order .. option, 200) end
      end
      for _, option in ipairs { "f", "d", "n" } do
        for _, value in ipairs { 0, 1.5, -0.0, 1 / 0, 0 / 0, 1e300, 3 } do same(7, order .. option, value) end
      end
      same(1, order .. "z", "text")
      same(1, order .. "z", "")
      same(1, order .. "s", "text")
      same(1, order .. "s1 s2 s4", "a", "", "ccc")
      same(1, order .. "c0", "")
      same(1, order .. "c10", "short")
      same(1, order .. "b x b", 1, 2)
      same(1, order .. "b Xi4 b", 1, 2)
      same(1, order .. "b Xd Xb b", 1, 2)
      same(1, order .. "b i4 b d b h s2", 1, 2, 3, 4, 5, 6, "seven")
    end
    same(0, "")
    same(SIZE, "")
    same(9, " ")
    same(3, "<i4 >i4 =i4", 1, 2, 3)
    same(3, "j s", math.mininteger, ("x"):rep(100))
    same(3, "i8", "42")
    same(3, "s d", 42, "1.5")
  end)

  it("aligns from its own start, not from the segment's", function()
    assert.equal(3 + 8, seg:pack("!4 b i4", 3, 1, 2))
    assert.equal(2, (string.unpack("<i4", seg:read(7, 4))))
    assert.same({ 1, 2, 11 }, { seg:unpack("!4 b i4", 3) })
  end)

  it("refuses what string.pack refuses, with its words, and writes nothing", function()
    local cases = {
      { "i1", 128 }, { "i1", -129 }, { "B", 256 }, { "B", -1 }, { "i4", 1 << 31 }, { "I4", 1 << 32 },
      { "i0", 1 }, { "i17", 1 }, { "I99", 1 }, { "!17", }, { "!0" }, { "s17", "x" }, { "y" }, { "c", "x" },
      { "c2", "abc" }, { "z", "a\0b" }, { "s1", ("x"):rep(256) }, { "X" }, { "Xz" }, { "Xc1" }, { "X<" }, { "XX" },
      { "b" }, { "i4", "x" }, { "i4", 1.5 }, { "i4", {} }, { "d", "x" }, { "s", {} }, { "!8 i3", 1 }, { "!3 i4", 1 },
      { "b b", 1 },
    }
    for _, case in ipairs(cases) do
      local ok, problem = pcall(string.pack, table.unpack(case))
      assert.is_false(ok)
      local got = raises("", seg.pack, seg, case[1], 0, table.unpack(case, 2))
      -- The same text but for the number of the argument and the name of the function.
      local reason = (problem:match("%((.*)%)$") or problem):gsub("got nil", "got no value")
      assert.is_truthy(got:find(reason, 1, true), got .. " / " .. reason)
    end
    raises("invalid format option '9'", seg.pack, seg, "c99999999999", 0, "") -- string.pack fills a gigabyte first
    raises("outside the segment", seg.pack, seg, "i8", SIZE - 7, 1)
    raises("offset 4090 + size 10", seg.pack, seg, "b s8", 4090, 1, "x")
    raises("offset", seg.pack, seg, "b", -1, 1)
    raises("outside", seg.pack, seg, "b", math.maxinteger, 1)
    raises("string", seg.pack, seg, {}, 0)
    raises("overflow", seg.pack, seg, "bbi1", 0, 1, 2, 300)
    assert.equal(("\0"):rep(SIZE), seg:read())
  end)

  it("reads nothing outside, whatever lengths the memory claims", function()
    raises("outside the segment", seg.unpack, seg, "i8", SIZE - 7)
    raises("outside the segment", seg.unpack, seg, "", SIZE + 1)
    raises("outside the segment", seg.unpack, seg, "i1", math.maxinteger)
    raises("outside the segment", seg.unpack, seg, "c5000", 0)
    raises("outside the segment", seg.unpack, seg, "c2147483647 c2147483647", 0)
    seg:fill(0xff)
    for _, format in ipairs { "s", "s1", "s2", "s4", "s8" } do
      raises("outside the segment", seg.unpack, seg, "<" .. format, SIZE - 9)
    end
    raises("does not fit into Lua Integer", seg.unpack, seg, "s16")
    raises("unfinished string for format 'z'", seg.unpack, seg, "z", 0)
    raises("unfinished string", seg.unpack, seg, "z", SIZE - 1)
    raises("outside the segment", seg.unpack, seg, "z", SIZE + 1)
    assert.equal(-1, (seg:unpack("i16", 0)))
    raises("16-byte integer does not fit into Lua Integer", seg.unpack, seg, "I16", 0)
    seg:pack("<i8 i8", 0, 5, 1)
    raises("does not fit", seg.unpack, seg, "<i16", 0)
    raises("invalid format option 'y'", seg.unpack, seg, "y")
    assert.same({ 5, 8 }, { seg:unpack("<j") })
  end)

  it("does the same as string.pack at random, seed " .. support.seed, function()
    math.randomseed(support.seed)
    local random = math.random
    local function integer(bytes, signed)
      if bytes >= 8 then return random(0) end
      if signed then return random(-(1 << (bytes * 8 - 1)), (1 << (bytes * 8 - 1)) - 1) end
      return random(0, (1 << (bytes * 8)) - 1)
    end
    local function text(n)
      local bytes = {}
      for i = 1, random(0, n) do bytes[i] = string.char(random(1, 255)) end
      return table.concat(bytes)
    end
    local makers = {
      function() local n = random(8) return "i" .. n, integer(n, true) end,
      function() local n = random(8) return "I" .. n, integer(n, false) end,
      function() return "i16", integer(8) end,
      function() return "b", integer(1, true) end,
      function() return "H", integer(2, false) end,
      function() return "j", integer(8) end,
      function() return "T", integer(8) end,
      function() return "d", random() * 10.0 ^ random(-300, 300) end,
      function() return "f", random() end,
      function() return "n", integer(4, true) end,
      function() return "z", text(80) end,
      function() return "s" .. random(8), text(100) end,
      function() local n = random(0, 60) return "c" .. n, text(n) end,
      function() return "x" end,
      function() return "X" .. ({ "b", "h", "i4", "d", "j" })[random(5)] end,
      function() return ({ "<", ">", "=", "!", "!1", "!2", "!4", "!8", " " })[random(9)] end,
    }
    local packed = 0
    for _ = 1, 3000 do
      local format, values, n = {}, {}, 0
      for i = 1, random(0, 12) do
        local option, value = makers[random(#makers)]()
        format[i] = option
        if value ~= nil then
          n = n + 1
          values[n] = value
        end
      end
      format = table.concat(format, random(2) == 1 and " " or "")
      local offset = random(0, 200)
      if pcall(string.pack, format, table.unpack(values, 1, n)) then
        same(offset, format, table.unpack(values, 1, n))
        packed = packed + 1
      else -- an alignment that is no power of 2
        raises("", seg.pack, seg, format, offset, table.unpack(values, 1, n))
      end
    end
    assert.is_true(packed > 2000)
  end)

  it("unpacks arbitrary bytes as string.unpack does, or raises as it does, seed " .. support.seed, function()
    math.randomseed(support.seed)
    local random = math.random
    local options = { "b", "H", "i3", "I4", "j", "i9", "I12", "f", "d", "z", "s1", "s2", "c7", "x", "Xi4", "<", ">",
      "!" }
    for _ = 1, 2000 do
      local bytes = {}
      for i = 1, 64 do bytes[i] = string.char(random(4) == 1 and 0 or random(0, 255)) end
      local small <close> = assert(polyshm.segment("anon:", { size = 64 }))
      local content = table.concat(bytes)
      small:write(0, content)
      local format = {}
      for i = 1, random(8) do format[i] = options[random(#options)] end
      format = table.concat(format)
      local offset = random(0, 64)
      local wanted = table.pack(pcall(string.unpack, format, content:sub(offset + 1)))
      local got = table.pack(pcall(small.unpack, small, format, offset))
      assert.equal(wanted[1], got[1], format)
      if wanted[1] then
        wanted[wanted.n] = wanted[wanted.n] - 1 + offset
        for i = 1, wanted.n do
          assert.is_true(wanted[i] == got[i] or wanted[i] ~= wanted[i], format)
        end
        assert.equal(wanted.n, got.n)
      end
    end
  end)

  it("looks for the end of a string only where it may read", function()
    local two <close> = assert(polyshm.segment("anon:", { size = 8192 }))
    two:fill(65)
    two:write(4095, "\0")
    two:protect("none", 4096, 4096)
    assert.equal(4095, #two:unpack("z", 0))
    two:fill(65, 0, 4096)
    raises("may not be accessed", two.unpack, two, "z", 0)
  end)
end)
