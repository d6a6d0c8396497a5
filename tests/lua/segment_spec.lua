-- SPDX-License-Identifier: MIT
-- Segments: every kind, every option, copying bytes, and the system calls.
-- luacheck: ignore 211/again
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises, refused = support.raises, support.refused
local PAGE = helper.PAGE

describe("segment", function()
  support.watch { before_each = before_each, after_each = after_each }

  -- Kinds, each with what its segment says of itself. `open` makes one of two pages.
  local function options(more)
    local all = { size = 2 * PAGE, create = true }
    for key, value in pairs(more or {}) do all[key] = value end
    return all
  end
  local kinds = {
    { name = "posix", kind = "posix",
      open = function(more) return polyshm.segment(support.posix(), options(more)) end },
    { name = "sysv by key", kind = "sysv",
      open = function(more) return polyshm.segment(support.key(), options(more)) end },
    { name = "sysv by ftok", kind = "sysv", open = function(more)
      local path = support.path()
      assert(io.open(path, "w")):close()
      return polyshm.segment("sysv:" .. path .. "#P", options(more))
    end },
    { name = "sysv private", kind = "sysv", open = function(more)
      return polyshm.segment("sysv:private", options(more))
    end },
    { name = "file", kind = "file", open = function(more)
      return polyshm.segment("file:" .. support.path(), options(more))
    end },
    { name = "anon", kind = "anon", open = function(more) return polyshm.segment("anon:", options(more)) end },
    { name = "zero", kind = "zero", open = function(more) return polyshm.segment("zero:", options(more)) end },
    { name = "memfd", kind = "memfd",
      open = function(more) return polyshm.segment("memfd:polyshm-test", options(more)) end },
  }

  local function remove(seg)
    if seg.kind ~= "file" then assert(seg:unlink()) end
  end

  for _, kind in ipairs(kinds) do
    describe(kind.name, function()
      it("is made, says what it is, and holds bytes", function()
        local seg <close> = assert(kind.open())
        assert.equal(kind.kind, seg.kind)
        assert.equal(2 * PAGE, seg.size)
        assert.equal(2 * PAGE, #seg)
        assert.is_true(seg.created)
        assert.is_false(seg.readonly)
        assert.is_false(seg.lost)
        assert.is_false(seg.closed)
        assert.equal(1, seg.address:find(kind.kind .. ":", 1, true))
        assert.equal("string", type(seg.name))
        if kind.kind == "posix" or kind.kind == "file" or kind.kind == "memfd" then
          assert.equal("integer", math.type(seg.fd))
        else
          assert.is_nil(seg.fd)
        end
        assert.equal(("\0"):rep(2 * PAGE), seg:read())
        seg:write(PAGE - 2, "over")
        assert.equal("\0over\0", seg:read(PAGE - 3, 6))
        assert.is_truthy(tostring(seg):find("polyshm.segment (" .. kind.kind, 1, true))
        remove(seg)
      end)

      it("is shared with a forked child", function()
        local seg <close> = assert(kind.open())
        seg:write(0, "parent")
        support.in_child(function()
          assert(seg:read(0, 6) == "parent")
          seg:write(10, "child")
        end)
        assert.equal("child", seg:read(10, 5))
        remove(seg)
      end)

      it("has a stat", function()
        local seg <close> = assert(kind.open { mode = "0640" })
        local stat = assert(seg:stat())
        assert.equal(seg.address, stat.address)
        assert.equal(kind.kind, stat.kind)
        assert.is_true(stat.size >= 2 * PAGE)
        if kind.kind ~= "anon" and kind.kind ~= "zero" then
          assert.equal(helper.getuid(), stat.uid)
          if kind.kind ~= "memfd" then assert.equal(tonumber("640", 8), stat.mode & tonumber("777", 8)) end
        end
        remove(seg)
      end)

      it("is readable under a view after close, and refuses everything else", function()
        local seg = assert(kind.open())
        remove(seg)
        local view = seg:view("u8", 0, 4)
        seg:write(0, "abcd")
        seg:close()
        seg:close()
        assert.is_true(seg.closed)
        assert.equal("abcd", string.char(view:get(1, 4)))
        view[1] = 65
        assert.equal(65, view[1])
        raises("segment is closed", seg.read, seg, 0, 1)
        raises("segment is closed", seg.write, seg, 0, "x")
        raises("segment is closed", function() return #seg end)
        raises("segment is closed", seg.stat, seg)
        raises("segment is closed", seg.view, seg, "u8")
        raises("segment is closed", seg.unlink, seg)
        assert.is_truthy(tostring(seg):find("closed", 1, true))
        view:close()
      end)
    end)
  end

  describe("opening", function()
    it("finds by name what another made, and tells who made it", function()
      local address = support.posix()
      local seg <close> = assert(polyshm.segment(address, { size = 100, create = true }))
      local again <close> = assert(polyshm.segment(address))
      assert.is_false(again.created)
      assert.equal(100, again.size)
      seg:write(3, "shared")
      assert.equal("shared", again:read(3, 6))
      local third <close> = assert(polyshm.segment(address, { create = true, size = 50 }))
      assert.equal(50, #third)
      assert.is_false(third.created)
      assert(seg:unlink())
    end)

    it("says nil, message and code where the system refuses", function()
      local address = support.posix()
      refused("ENOENT", address .. ": No such file", polyshm.segment(address))
      local seg <close> = assert(polyshm.segment(address, { size = 1, create = true }))
      refused("EEXIST", address .. ": File exists",
        polyshm.segment(address, { size = 1, create = true, exclusive = true }))
      assert(seg:unlink())
      refused("ENOENT", "", seg:unlink())
      refused("ENOENT", address, polyshm.unlink(address))
      refused("ENOENT", "", polyshm.segment("file:/nowhere/at/all", { size = 1, create = true }))
      refused("EBADF", "fd:", polyshm.segment("fd:987"))
    end)

    it("opens a System V segment by id and by key, and tells all that shmid_ds has", function()
      local address = support.key()
      local seg <close> = assert(polyshm.segment(address, { size = 5000, create = true, mode = "0600" }))
      local stat = assert(seg:stat())
      for _, field in ipairs { "key", "id", "uid", "gid", "cuid", "cgid", "mode", "size", "attaches", "creator_pid",
        "last_pid", "attach_time", "detach_time", "change_time" } do
        assert.equal("integer", math.type(stat[field]), field)
      end
      assert.equal(helper.getpid(), stat.creator_pid)
      assert.equal(1, stat.attaches)
      assert.equal(5000, stat.size)
      local by_id <close> = assert(polyshm.segment("sysv:id=" .. stat.id))
      assert.equal(5000, #by_id)
      assert.equal(2, seg:stat().attaches)
      assert.equal(stat.id, polyshm.stat(address).id)
      seg:write(0, "by key")
      assert.equal("by key", by_id:read(0, 6))
      assert(seg:set { mode = "0400" })
      assert.equal(tonumber("400", 8), seg:stat().mode & 511)
      assert(seg:unlink())
      refused("ENOENT", address, polyshm.segment(address))
    end)

    it("maps a window of a file at any offset", function()
      local path = support.path()
      local file = assert(io.open(path, "w"))
      file:write(("0123456789"):rep(1000))
      file:close()
      local seg <close> = assert(polyshm.segment("file:" .. path, { offset = 4103, size = 7 }))
      assert.equal("3456789", seg:read())
      local rest <close> = assert(polyshm.segment("file:" .. path, { offset = 9995 }))
      assert.equal("56789", rest:read())
      seg:write(0, "abc")
      file = assert(io.open(path))
      file:seek("set", 4103)
      assert.equal("abc6", file:read(4))
      file:close()
      raises("offset and size do not fit", polyshm.segment, "file:" .. path, { offset = 9000, size = 2000 })
    end)

    it("opens an inherited descriptor", function()
      local seg <close> = assert(polyshm.segment("memfd:polyshm-test", { size = 10, inherit = true }))
      assert.is_false(helper.cloexec(seg.fd))
      local closed <close> = assert(polyshm.segment("memfd:polyshm-test", { size = 10 }))
      assert.is_true(helper.cloexec(closed.fd))
      seg:write(0, "from above")
      local how, number, text = support.lua(([[
        local polyshm = require "polyshm"
        local seg <close> = assert(polyshm.segment("fd:%d"))
        print(seg.kind, #seg, seg:read())
      ]]):format(seg.fd))
      assert.same({ "exit", 0, "fd\t10\tfrom above\n" }, { how, number, text })
    end)

    it("reads, copies on write, or has no access at all, as asked", function()
      local address = support.posix()
      local seg <close> = assert(polyshm.segment(address, { size = PAGE, create = true }))
      seg:write(0, "original")
      local r <close> = assert(polyshm.segment(address, { access = "r" }))
      assert.is_true(r.readonly)
      assert.equal("original", r:read(0, 8))
      raises("the memory is read-only", r.write, r, 0, "x")
      raises("read-only", r.fill, r, 1)
      raises("read-only", r.pack, r, "b", 0, 1)
      raises("read-only", r.copy, r, 0, 8, 8)
      local view = r:view("u8")
      raises("read-only", function() view[1] = 1 end)
      raises("read-only", view.fill, view, 1)
      raises("read-only", view.set, view, 1, 2)
      local copy <close> = assert(polyshm.segment(address, { access = "copy" }))
      copy:write(0, "altered!")
      assert.equal("altered!", copy:read(0, 8))
      assert.equal("original", seg:read(0, 8))
      local none <close> = assert(polyshm.segment(address, { access = "none" }))
      raises("may not be accessed", none.read, none, 0, 1)
      raises("may not be accessed", none.view, none, "u8")
      assert(none:protect("r"))
      assert.equal("original", none:read(0, 8))
      assert(seg:unlink())
    end)

    it("takes mode as it is, whatever the umask", function()
      local before = helper.umask(tonumber("77", 8))
      local seg = polyshm.segment(support.posix(), { size = 1, create = true, mode = "0664" })
      helper.umask(before)
      assert.equal(tonumber("664", 8), assert(seg):stat().mode & 511)
      assert(seg:set { mode = "600" })
      assert.equal(tonumber("600", 8), seg:stat().mode & 511)
      assert(seg:unlink())
      seg:close()
    end)

    it("reserves, or does not", function()
      local seg <close> = assert(polyshm.segment(support.posix(), { size = "1M", create = true }))
      assert.is_true(seg:stat().allocated >= 1 << 20)
      local thin <close> = assert(polyshm.segment(support.posix(), { size = "1M", create = true, reserve = false }))
      assert.equal(0, thin:stat().allocated)
      assert.equal(1 << 20, #thin)
      assert(seg:unlink())
      assert(thin:unlink())
      refused("ENOMEM", "anon:", polyshm.segment("anon:", { size = "64G" }))
    end)

    it("populates, locks and maps executable memory", function()
      local seg <close> = assert(polyshm.segment("anon:", { size = PAGE, populate = true, exec = true }))
      local at = false
      for line in io.lines("/proc/self/maps") do at = at or line:find("rwxs", 1, true) ~= nil end
      assert.is_true(at)
      seg:write(0, "x")
      local locked <close> = assert(polyshm.segment("anon:", { size = PAGE, locked = true }))
      locked:write(0, "x")
      local found = false
      for line in io.lines("/proc/self/status") do
        local kib = line:match("^VmLck:%s*(%d+)")
        found = found or (kib and tonumber(kib) >= 4)
      end
      -- AddressSanitizer makes mlock do nothing.
      assert.is_true(found or (os.getenv("LD_PRELOAD") or ""):find("asan", 1, true) ~= nil)
    end)

    it("maps at an address, rounding where asked", function()
      local probe = assert(polyshm.segment("sysv:private", { size = PAGE }))
      local wanted
      for line in io.lines("/proc/self/maps") do
        if line:find("SYSV", 1, true) and line:find(("%d"):format(probe:stat().id), 1, true) then
          wanted = tonumber(line:match("^%x+"), 16)
        end
      end
      assert.is_truthy(wanted)
      local id = probe:stat().id
      probe:close()
      local again = assert(polyshm.segment("sysv:private", { size = PAGE, at = wanted }))
      again:unlink()
      again:close()
      local rounded = assert(polyshm.segment("sysv:private", { size = PAGE, at = wanted + 5, round = true }))
      rounded:unlink()
      rounded:close()
      refused("EINVAL", "sysv:private", polyshm.segment("sysv:private", { size = PAGE, at = wanted + 5 }))
      assert(polyshm.unlink("sysv:id=" .. id))
      for _, entry in ipairs(polyshm.list()) do
        -- What the refused attach made must be gone too.
        assert.is_false(entry.kind == "sysv" and entry.creator_pid == helper.getpid())
      end
    end)

    it("says clearly where there are no huge pages", function()
      local pool = 0
      for line in io.lines("/proc/meminfo") do pool = tonumber(line:match("^HugePages_Free:%s*(%d+)")) or pool end
      if pool == 0 then
        local seg, message, code = polyshm.segment("anon:", { size = "2M", hugepages = true })
        assert.is_nil(seg)
        assert.is_truthy(message:find("anon:", 1, true))
        assert.equal("ENOMEM", code)
      else
        local seg <close> = assert(polyshm.segment("anon:", { size = "2M", hugepages = "2M" }))
        seg:write(0, "huge")
      end
      raises("option hugepages", polyshm.segment, "anon:", { size = 1, hugepages = 1 })
      raises("option hugepages", polyshm.segment, "anon:", { size = 1, hugepages = {} })
    end)
  end)

  describe("bytes", function()
    local seg
    before_each(function() seg = assert(polyshm.segment("anon:", { size = 100 })) end)
    after_each(function() seg:close() end)

    it("reads with defaults, short and long", function()
      for i = 0, 99 do seg:write(i, string.char(i)) end
      local all = seg:read()
      assert.equal(100, #all)
      for _, size in ipairs { 0, 1, 39, 40, 41, 63, 64, 65, 99 } do
        assert.equal(all:sub(1, size), seg:read(0, size))
        assert.equal(all:sub(101 - size), seg:read(100 - size))
      end
      assert.equal("", seg:read(100))
      assert.equal("", seg:read(100, 0))
      assert.equal(all, seg:read(nil, nil))
      assert.equal(all, seg:read(0.0, 100.0))
      assert.equal(all:sub(1, 100), seg:read("0", "100"))
    end)

    it("refuses what is outside, and writes nothing then", function()
      raises("anon:: offset 90 + size 20: outside the segment (size 100)", seg.read, seg, 90, 20)
      raises("outside the segment", seg.read, seg, 101)
      raises("outside the segment", seg.read, seg, math.maxinteger, math.maxinteger)
      raises("offset 98 + size 3", seg.write, seg, 98, "abc")
      assert.equal("\0\0", seg:read(98))
      raises("outside", seg.fill, seg, 1, 50, 51)
      raises("outside", seg.copy, seg, 0, 60, 50)
      raises("offset 60 + size 50", seg.copy, seg, 0, 60, 50)
      raises("offset 70 + size 50", seg.copy, seg, 70, 0, 50)
      raises("outside", seg.find, seg, "x", 0, 101)
    end)

    it("fills, copies and finds", function()
      seg:fill(0xab)
      assert.equal(("\xab"):rep(100), seg:read())
      seg:fill(7, 10, 3)
      assert.equal("\xab\7\7\7\xab", seg:read(9, 5))
      seg:fill()
      assert.equal(("\0"):rep(100), seg:read())
      seg:write(0, "abcdef")
      seg:copy(2, 0, 6)
      assert.equal("ababcdef", seg:read(0, 8))
      seg:copy(0, 2, 6)
      assert.equal("abcdef", seg:read(0, 6))
      assert.equal(2, seg:find("cd"))
      assert.is_nil(seg:find("xyz"))
      assert.is_nil(seg:find("cd", 3))
      assert.equal(2, seg:find("cd", 2, 4))
      assert.is_nil(seg:find("cd", 2, 3))
      assert.equal(0, seg:find(""))
      assert.equal(6, seg:find("ef\0", 1))
      raises("byte must be from 0 to 255", seg.fill, seg, 256)
      raises("byte must be from 0 to 255", seg.fill, seg, -1)
    end)

    it("reads into segments and views, its own bytes too", function()
      seg:write(0, "0123456789")
      local small <close> = assert(polyshm.segment("anon:", { size = 4 }))
      seg:read_into(small, 3)
      assert.equal("3456", small:read())
      seg:read_into(small)
      assert.equal("0123", small:read())
      local view = small:view("u16", 2, 1)
      seg:read_into(view, 8)
      assert.equal("0189", small:read())
      local own = seg:view("u8", 2, 6)
      seg:read_into(own, 0)
      assert.equal("0101234589", seg:read(0, 10))
      raises("outside", seg.read_into, seg, small, 97)
      raises("polyshm.segment or polyshm.view expected", seg.read_into, seg, {}, 0)
      own:close()
      raises("view is closed", seg.read_into, seg, own, 0)
      small:close()
      raises("segment is closed", seg.read_into, seg, small, 0)
    end)
  end)

  describe("system calls", function()
    local seg
    before_each(function() seg = assert(polyshm.segment(support.posix(), { size = 4 * PAGE, create = true })) end)
    after_each(function()
      polyshm.unlink(seg.address)
      seg:close()
    end)

    it("flush takes any range and every manner", function()
      assert.is_true(seg:flush())
      assert.is_true(seg:flush(5, 10))
      assert.is_true(seg:flush(0, PAGE, { wait = false }))
      assert.is_true(seg:flush(nil, nil, { invalidate = true, wait = true }))
      raises("outside", seg.flush, seg, 0, 4 * PAGE + 1)
      raises("unknown option 'sync'", seg.flush, seg, 0, 1, { sync = true })
    end)

    it("protect lowers and raises rights of a range", function()
      assert.is_true(seg:protect("r", PAGE, PAGE))
      seg:write(0, "x")
      raises("read-only", seg.write, seg, PAGE, "x")
      assert.equal("\0", seg:read(PAGE, 1))
      assert.is_true(seg:protect("none", PAGE, 1))
      raises("may not be accessed", seg.read, seg, PAGE, 1)
      raises("may not be accessed", seg.read, seg)
      assert.is_true(seg:protect("rw"))
      seg:write(PAGE, "y")
      raises('access "copy"', seg.protect, seg, "copy")
      raises('access "x"', seg.protect, seg, "x")
      local r <close> = assert(polyshm.segment(seg.address, { access = "r" }))
      refused("EACCES", seg.address, r:protect("rw"))
    end)

    it("advise knows the advice by name", function()
      for _, advice in ipairs { "normal", "sequential", "random", "willneed" } do
        assert.is_true(seg:advise(advice))
        assert.is_true(seg:advise(advice, PAGE, 10))
      end
      seg:write(0, "gone soon")
      assert.is_true(seg:advise("remove"))
      assert.equal(("\0"):rep(9), seg:read(0, 9))
      raises('advice "hope"', seg.advise, seg, "hope")
    end)

    it("pin and unpin", function()
      assert.is_true(seg:pin())
      assert.is_true(seg:unpin())
      assert.is_true(seg:pin(PAGE, 1, { on_fault = true }))
      assert.is_true(seg:unpin(PAGE, 1))
      local sysv <close> = assert(polyshm.segment("sysv:private", { size = PAGE }))
      local function locked() -- SHM_LOCKED, a bit beside the permissions
        for line in io.lines("/proc/sysvipc/shm") do
          local id, mode = line:match("^%s*%-?%d+%s+(%d+)%s+(%d+)")
          if id == tostring(sysv:stat().id) then return tonumber(mode, 8) & tonumber("2000", 8) ~= 0 end
        end
      end
      assert.is_false(locked())
      assert.is_true(sysv:pin())
      assert.is_true(locked())
      assert.is_true(sysv:unpin())
      assert.is_false(locked())
      assert.is_true(sysv:pin(0, 10))
      assert.is_true(sysv:unpin(0, 10))
      sysv:unlink()
    end)

    it("resize grows and shrinks, and views follow", function()
      local view = seg:view("u8", 0, 4 * PAGE)
      local head = seg:view("u8", 0, 10)
      view[4 * PAGE] = 9
      assert.is_true(seg:resize("64K"))
      assert.equal(65536, #seg)
      assert.equal(9, view[4 * PAGE])
      seg:write(65535, "e")
      assert.is_true(seg:resize(PAGE))
      assert.equal(PAGE, #seg)
      raises("outside the segment", function() return view[4 * PAGE] end)
      raises("outside the segment", function() view[4 * PAGE] = 1 end)
      assert.equal(0, view[1])
      assert.equal(0, head[10])
      raises("outside", seg.write, seg, PAGE, "x")
      raises("at least 1 byte", seg.resize, seg, 0)
      local anon <close> = assert(polyshm.segment("anon:", { size = 10 }))
      refused("EOPNOTSUPP", "anon:", anon:resize(20))
    end)

    it("set changes owner, group and mode", function()
      local uid, gid = helper.getuid()
      assert.is_true(seg:set { uid = uid, gid = gid, mode = "0644" })
      assert.equal(tonumber("644", 8), seg:stat().mode & 511)
      assert.is_true(seg:set {})
      raises("option mode", seg.set, seg, { mode = 420 })
      raises("option mode", seg.set, seg, { mode = "999" })
      raises("option uid", seg.set, seg, { uid = -1 })
      raises("unknown option 'user'", seg.set, seg, { user = 0 })
      raises("table expected", seg.set, seg)
    end)

    it("module functions ask by address", function()
      assert.is_true(polyshm.exists(seg.address))
      local stat = assert(polyshm.stat(seg.address))
      assert.equal(4 * PAGE, stat.size)
      assert.equal(seg.address, stat.address)
      assert.equal("posix", stat.kind)
      assert.equal(seg:stat().inode, stat.inode)
      local found
      for _, entry in ipairs(assert(polyshm.list())) do
        if entry.address == seg.address then found = entry end
      end
      assert.equal(4 * PAGE, found.size)
      assert.is_true(polyshm.unlink(seg.address))
      assert.is_false(polyshm.exists(seg.address))
      refused("ENOENT", seg.address, polyshm.stat(seg.address))
      refused("EOPNOTSUPP", "anon:", polyshm.exists("anon:"))
      raises("not an address", polyshm.exists, "nonsense")
      raises("not an address", polyshm.stat, "nonsense")
      raises("not an address", polyshm.unlink, "nonsense")
    end)

    it("unlink spares what has the name now", function()
      local address = seg.address
      assert(polyshm.unlink(address))
      local other <close> = assert(polyshm.segment(address, { size = 1, create = true }))
      refused("ENOENT", address, seg:unlink())
      assert(other:unlink())
    end)
  end)

  it("has a version and sizes", function()
    assert.is_truthy(polyshm._VERSION:match("^%d+%.%d+%.%d+$"))
    assert.equal("integer", math.type(polyshm.MUTEX_SIZE))
    assert.equal(8, polyshm.MUTEX_ALIGN)
  end)

  it("loads nothing global", function()
    local how, number, text = support.lua([[
      local before = {}
      for key in pairs(_G) do before[key] = true end
      require "polyshm"
      for key in pairs(_G) do if not before[key] then print(key) end end
    ]])
    assert.same({ "exit", 0, "" }, { how, number, text })
  end)
end)
