---@meta polyshm
-- SPDX-License-Identifier: MIT
-- What the module shows, for editors that read LuaCATS annotations. tests/lua/annotations_spec.lua compares it with
-- the live module.
--
-- Byte offsets count from 0, elements of a view from 1. Sizes and offsets are bytes, or texts such as "64M" (powers of
-- 1024). Times are seconds. What the system refuses is `nil, message, code`; the caller's faults raise.

---@class polyshm
---@field _VERSION string        "MAJOR.MINOR.PATCH"
---@field MUTEX_SIZE integer     bytes of a mutex in a segment
---@field MUTEX_ALIGN integer    what the offset of a mutex is a multiple of
local polyshm = {}

---Bytes, or a text such as "64M".
---@alias polyshm.bytes integer|string

---An element of a view: `f64` and `=f64` are in the machine's byte order, `<f64` is little, `>f64` big.
---@alias polyshm.element
---| "i8" | "u8" | "i16" | "u16" | "i32" | "u32" | "i64" | "u64" | "f32" | "f64"
---| string

---@alias polyshm.word "i32" | "u32" | "i64" | "u64"

---What raises where memory is gone (`ELOST`), an owner died (`EOWNERDEAD`), a guard, a recover or a once timed out
---(`ETIMEDOUT`), a barrier is broken (`EBROKEN`), a segment was removed and made anew (`EREMADE`), an object was deleted
---(`EDELETED`), a segment is no arena or not one that can be used
---here (`ENOTARENA`, `EFORMAT`, `EABI`, `ETRUNCATED`, `ENETWORK`, `EELSEWHERE`), or its bytes cannot be (`ECORRUPT`); and
---what `arena:mutex` and its like cannot return. tostring gives the message.
---@class polyshm.error
---@field code string
---@field message string
---@field address? string
---@field lock? polyshm.lock          EOWNERDEAD, and ETIMEDOUT but of permits and onces: the lock
---@field pid? integer                EOWNERDEAD: the process that died, where it is known
---@field participant? integer        EOWNERDEAD in an arena: the slot of the participant that died, where it is known

---@alias polyshm.lock polyshm.mutex|polyshm.rwlock_side|polyshm.segment_mutex|polyshm.record_lock

---@class polyshm.options
---@field size? polyshm.bytes        bytes to map; needed to create, else to the end of what exists
---@field offset? polyshm.bytes      first byte of the window, any value
---@field access? "rw"|"r"|"copy"|"none"
---@field create? boolean            create, or open what exists
---@field exclusive? boolean         create or fail
---@field mode? string               permissions of what is created, octal: "0600"
---@field reserve? boolean           of what is created: take the memory now (default), not at the first touch
---@field exec? boolean              executable too
---@field populate? boolean          page tables filled now
---@field locked? boolean            kept in memory
---@field hugepages? boolean|polyshm.bytes    the default size of huge page, or the size of one
---@field inherit? boolean           the descriptor stays open across exec
---@field at? integer                address to map at; never replaces a mapping
---@field round? boolean             `at` is rounded down to what the kernel takes

---What the kernel keeps of a segment; what its kind does not have is not there. Times are seconds since 1970.
---@class polyshm.stat
---@field address string
---@field kind string
---@field size? integer
---@field mode? integer              permissions
---@field uid? integer
---@field gid? integer
---@field key? integer               System V: the key, 0 for private
---@field id? integer                System V: the id
---@field cuid? integer              System V: creator
---@field cgid? integer              System V: group of the creator
---@field attaches? integer          System V: attachments now
---@field creator_pid? integer       System V: process that created it
---@field last_pid? integer          System V: process that attached or detached last
---@field attach_time? integer       System V: last attach, 0 for never
---@field detach_time? integer       System V: last detach, 0 for never
---@field change_time? integer       last change of owner, mode or size
---@field device? integer
---@field inode? integer
---@field links? integer             names that lead to it
---@field allocated? integer         bytes that are really there
---@field access_time? integer
---@field modify_time? integer

---Opens, or with `create` makes, the segment that `address` names: posix:/name, sysv:0x1234, sysv:path#A, sysv:private,
---sysv:id=42, file:path, anon:, zero:, memfd:name, fd:7.
---@param address string
---@param options? polyshm.options
---@return polyshm.segment? segment
---@return string? message
---@return string? code
function polyshm.segment(address, options) end

---@class polyshm.arena_options
---@field size? polyshm.bytes        bytes of a new one (default: 16M)
---@field access? "rw"|"r"
---@field create? boolean            create, or open what exists
---@field exclusive? boolean         create or fail
---@field mode? string               permissions of a new one, octal: "0600"
---@field reserve? boolean           of a new one: take the memory now (default), not at the first touch
---@field wait? number               seconds to wait for a creator (default: 0)
---@field life? "keep"|"last-detach" of a new one: until somebody unlinks it (default), or until its last user has gone
---@field participants? integer      of a new one: how many threads may take part at a time (default: 1024)

---Opens, or with `create` makes, the arena at `address`. `size`, `life` and `participants` of one that exists have to agree.
---@param address string
---@param options? polyshm.arena_options
---@return polyshm.arena? arena
---@return string? message
---@return string? code
function polyshm.arena(address, options) end

---Every POSIX and System V segment that this process can see.
---@return polyshm.stat[]? list
---@return string? message
---@return string? code
function polyshm.list() end

---What the kernel says of the segment that `address` names, without attaching.
---@param address string
---@return polyshm.stat? stat
---@return string? message
---@return string? code
function polyshm.stat(address) end

---@param address string
---@return boolean? exists
---@return string? message
---@return string? code
function polyshm.exists(address) end

---Removes the name, or the System V id, that `address` leads to.
---@param address string
---@return true? done
---@return string? message
---@return string? code
function polyshm.unlink(address) end

---@alias polyshm.waitable
---| polyshm.mutex | polyshm.counter | polyshm.semaphore | polyshm.permits | polyshm.event | polyshm.latch | polyshm.once
---| polyshm.participant
---@alias polyshm.object
---| polyshm.mutex | polyshm.rwlock | polyshm.semaphore | polyshm.permits | polyshm.condition | polyshm.event
---| polyshm.barrier | polyshm.once | polyshm.latch | polyshm.counter

---Waits until one of `objects` is ready, up to `timeout` seconds (nil: for ever): those that are, in the order given, none
---after the timeout. `{counter, at_least}` and `{permits, n}` say how much. Nothing is taken.
---@param objects (polyshm.waitable|table)[]
---@param timeout? number
---@return (polyshm.waitable|table)[] ready
function polyshm.wait(objects, timeout) end

---Raw bytes, exactly what the kernel gives. `#segment` is its size.
---@class polyshm.segment
---@field size integer       bytes
---@field kind "posix"|"sysv"|"file"|"anon"|"zero"|"memfd"|"fd"
---@field name string        the address behind the colon
---@field address string
---@field fd? integer        the descriptor, where there is one
---@field readonly boolean   opened with access "r"
---@field created boolean    this handle made it
---@field lost boolean       memory under the mapping went away
---@field closed boolean
---@operator len: integer
local segment = {}

---The handle raises from then on; views and held locks go on working. Closing again does nothing.
function segment:close() end

---`size` bytes (default: the rest) from `offset` (default: 0) on.
---@param offset? polyshm.bytes
---@param size? polyshm.bytes
---@return string
function segment:read(offset, size) end

---@param offset polyshm.bytes
---@param data string
function segment:write(offset, data) end

---Fills `target` with its own length of bytes from `offset` (default: 0) on.
---@param target polyshm.segment|polyshm.view
---@param offset? polyshm.bytes
function segment:read_into(target, offset) end

---Sets `size` bytes (default: the rest) from `offset` (default: 0) on to `byte` (default: 0).
---@param byte? integer
---@param offset? polyshm.bytes
---@param size? polyshm.bytes
function segment:fill(byte, offset, size) end

---Moves `size` bytes from offset `source` to offset `target`; they may overlap.
---@param target polyshm.bytes
---@param source polyshm.bytes
---@param size polyshm.bytes
function segment:copy(target, source, size) end

---The first place of `data` that lies wholly from `start` (default: 0) to before `stop` (default: the end).
---@param data string
---@param start? polyshm.bytes
---@param stop? polyshm.bytes
---@return integer? offset
function segment:find(data, start, stop) end

---`count` elements (default: all that fit) from byte `offset` (default: 0) on.
---@param type polyshm.element
---@param offset? polyshm.bytes
---@param count? integer
---@return polyshm.view
function segment:view(type, offset, count) end

---Writes the bytes of string.pack(format, ...) to `offset`, all or nothing.
---@param format string
---@param offset polyshm.bytes
---@param ... string|number
---@return integer offset behind the last byte
function segment:pack(format, offset, ...) end

---Reads what pack wrote to `offset` (default: 0): its values, then the offset behind them.
---@param format string
---@param offset? polyshm.bytes
---@return any ...
function segment:unpack(format, offset) end

---The word at byte `offset`.
---@param type polyshm.word
---@param offset polyshm.bytes
---@return polyshm.atomic
function segment:atomic(type, offset) end

---The mutex at byte `offset`. `create` initialises it: once, while nobody uses it. `repair` is called with the lock held
---if the owner before died.
---@param offset polyshm.bytes
---@param options? { create?: boolean, recursive?: boolean, repair?: fun(died: polyshm.error) }
---@return polyshm.segment_mutex
function segment:mutex(offset, options) end

---A lock on `size` bytes (default: the rest) from `offset` (default: 0) on, for files, POSIX segments and memfd.
---@param offset? polyshm.bytes
---@param size? polyshm.bytes
---@param options? { shared?: boolean }
---@return polyshm.record_lock? lock
---@return string? message
---@return string? code
function segment:record_lock(offset, size, options) end

---msync(2) of the pages around a range (default: all).
---@param offset? polyshm.bytes
---@param size? polyshm.bytes
---@param options? { wait?: boolean, invalidate?: boolean }    defaults: wait, do not invalidate
---@return true? done
---@return string? message
---@return string? code
function segment:flush(offset, size, options) end

---mprotect(2) of the pages around a range (default: all).
---@param access "rw"|"r"|"none"
---@param offset? polyshm.bytes
---@param size? polyshm.bytes
---@return true? done
---@return string? message
---@return string? code
function segment:protect(access, offset, size) end

---madvise(2) by name ("willneed", "sequential", ...) on the pages around a range (default: all).
---@param advice string
---@param offset? polyshm.bytes
---@param size? polyshm.bytes
---@return true? done
---@return string? message
---@return string? code
function segment:advise(advice, offset, size) end

---Keeps pages in memory: mlock2(2); on System V without a range SHM_LOCK, which holds for everybody.
---@param offset? polyshm.bytes
---@param size? polyshm.bytes
---@param options? { on_fault?: boolean }
---@return true? done
---@return string? message
---@return string? code
function segment:pin(offset, size, options) end

---Ends pin.
---@param offset? polyshm.bytes
---@param size? polyshm.bytes
---@return true? done
---@return string? message
---@return string? code
function segment:unpin(offset, size) end

---Sets the size of the object (posix, file, memfd) and maps that. A view that then lies outside raises when it is used.
---@param size polyshm.bytes
---@return true? done
---@return string? message
---@return string? code
function segment:resize(size) end

---What the kernel keeps of it.
---@return polyshm.stat? stat
---@return string? message
---@return string? code
function segment:stat() end

---Changes owner, group and permissions; what is left out stays.
---@param changes { uid?: integer, gid?: integer, mode?: string }
---@return true? done
---@return string? message
---@return string? code
function segment:set(changes) end

---Removes the name, or the System V id, if it still leads to this very object.
---@return true? done
---@return string? message
---@return string? code
function segment:unlink() end

---Elements of one type. `view[i]` counts from 1, is nil one past the end and an error elsewhere; `view[i] = x` raises
---outside, and for a value that the type cannot hold. `#view` is the number of elements. A view keeps working when its
---segment is closed.
---@class polyshm.view
---@field [integer] number
---@operator len: integer
local view = {}

---Lets the memory go; the view raises from then on. Closing again does nothing.
function view:close() end

---The elements `i` (default: 1) to `j` (default: `i`).
---@param i? integer
---@param j? integer
---@return number ...
function view:get(i, j) end

---Stores values from element `i` on, all or nothing.
---@param i integer
---@param ... number
function view:set(i, ...) end

---Sets the elements `i` to `j` (default: all) to `x`.
---@param x number
---@param i? integer
---@param j? integer
function view:fill(x, i, j) end

---Copies the elements `i` to `j` (default: all) to `target`, from its element `at` (default: 1) on. Both have one type and
---byte order; they may overlap, and may be of different segments.
---@param target polyshm.view
---@param i? integer
---@param j? integer
---@param at? integer
function view:copy(target, i, j, at) end

---A new table of the elements `i` to `j` (default: all), counted from 1.
---@param i? integer
---@param j? integer
---@return number[]
function view:totable(i, j) end

---The elements `i` to `j` (default: all) of the same memory.
---@param i? integer
---@param j? integer
---@return polyshm.view
function view:slice(i, j) end

---For `for i, x in view:each() do`. Holds nothing between the steps.
---@return fun(view: polyshm.view, i: integer): integer?, number?
---@return polyshm.view
---@return integer
function view:each() end

---A word that processes change together, all sequentially consistent. u64 is the two's complement in an integer.
---@class polyshm.atomic
local atomic = {}

---@return integer
function atomic:load() end

---@param value integer
function atomic:store(value) end

---Wraps.
---@param value integer
---@return integer previous
function atomic:add(value) end

---Wraps.
---@param value integer
---@return integer previous
function atomic:sub(value) end

---@param value integer
---@return integer previous
function atomic:and_(value) end

---@param value integer
---@return integer previous
function atomic:or_(value) end

---@param value integer
---@return integer previous
function atomic:xor(value) end

---@param value integer
---@return integer previous
function atomic:exchange(value) end

---Stores `desired` if the word is `expected`: it was, if that is what comes back.
---@param expected integer
---@param desired integer
---@return integer previous
function atomic:compare_exchange(expected, desired) end

---Waits while the word is `expected`, up to `timeout` seconds (default: for ever). 32-bit words only.
---@param expected integer
---@param timeout? number
---@return boolean differs
---@return "timeout"? why
function atomic:wait(expected, timeout) end

---Wakes up to `n` (default: 1) waiters; how many it were. 32-bit words only.
---@param n? integer
---@return integer woken
function atomic:notify(n) end

---A robust pthread mutex in the segment, which processes of any language share.
---@class polyshm.segment_mutex
local segment_mutex = {}

---Waits up to `timeout` seconds: nil for ever, 0 not at all. Raises EOWNERDEAD (and it is not held) if the owner died and
---there is no `repair`; and if this thread has it, but for `timeout` 0.
---@param timeout? number
---@return boolean? acquired
---@return string? why    "timeout" or "held"
---@return string? code
function segment_mutex:acquire(timeout) end

---For the thread that has it.
function segment_mutex:release() end

---Acquires, for `local held <close> = mutex:guard()`. Never nil: a timeout and an owner's death raise.
---@param timeout? number
---@return polyshm.guard
function segment_mutex:guard(timeout) end

---Acquires though the owner before died, which `died` tells. When the guard ends well, the mark of the death goes.
---@param timeout? number
---@return polyshm.guard held
---@return polyshm.error? died
function segment_mutex:recover(timeout) end

---Does a living owner have it?
---@return boolean
function segment_mutex:locked() end

---The process that has it.
---@return integer? pid
function segment_mutex:owner() end

---An open-file-description lock on a range of the file behind a segment. The kernel drops it when its holder dies.
---@class polyshm.record_lock
local record_lock = {}

---Waits up to `timeout` seconds: nil for ever, 0 not at all. Raises if this object has it, but for `timeout` 0.
---@param timeout? number
---@return boolean? acquired
---@return string? why    "timeout" or "held"
---@return string? code
function record_lock:acquire(timeout) end

function record_lock:release() end

---Acquires, for `local held <close> = lock:guard()`. Never nil: a timeout raises.
---@param timeout? number
---@return polyshm.guard
function record_lock:guard(timeout) end

---Would an acquire have to wait?
---@return boolean
function record_lock:locked() end

---A lock that is held, until the end of its block.
---@class polyshm.guard
local guard = {}

---Gives the lock back before the end of the block. Once is enough.
function guard:release() end

---A segment with named objects in it, which survives the death of any process that uses it. `#arena` is the number of
---objects, `pairs(arena)` gives their names and handles on them. Handles live as long as their arena.
---@class polyshm.arena
---@field address string
---@field kind "posix"|"sysv"|"file"|"anon"|"zero"|"memfd"|"fd"
---@field size integer       bytes
---@field id integer         random: no other arena has it
---@field created boolean    this handle made it
---@field readonly boolean   opened with access "r"
---@field closed boolean
---@field lost boolean       memory under the mapping went away
---@field life "keep"|"last-detach"
---@operator len: integer
local arena = {}

---The handle and its objects raise from then on, but to give back what is held. Closing again does nothing.
function arena:close() end

---Removes the name, or the System V id, if it still leads to this very arena.
---@return true? done
---@return string? message
---@return string? code
function arena:unlink() end

---The mutex of that name, which is made where there is none and the arena may be written. `recursive` says what it must be
---(default: what it is; false for a new one). `repair` is called with the lock held if the owner before died.
---@param name string
---@param options? { recursive?: boolean, repair?: fun(died: polyshm.error) }
---@return polyshm.mutex
function arena:mutex(name, options) end

---The counter of that name, which is made with the value 0 where there is none and the arena may be written.
---@param name string
---@return polyshm.counter
function arena:counter(name) end

---The condition of that name, which is made where there is none and the arena may be written. `mutex`, one of the same
---arena, is needed to make one; what exists has its own.
---@param name string
---@param mutex? polyshm.mutex
---@return polyshm.condition
function arena:condition(name, mutex) end

---The semaphore of that name, which is made with `value` (1) where there is none and the arena may be written.
---@param name string
---@param value? integer
---@return polyshm.semaphore
function arena:semaphore(name, value) end

---The permits of that name; `n` of them, 1 to 65535, are made where there are none and the arena may be written.
---@param name string
---@param n? integer
---@return polyshm.permits
function arena:permits(name, n) end

---The event of that name, which is made, clear, where there is none and the arena may be written. One with `auto` clears itself
---and lets one waiter go each time.
---@param name string
---@param options? { auto?: boolean }
---@return polyshm.event
function arena:event(name, options) end

---The barrier of that name, which is made with so many parties where there is none and the arena may be written. `on_death`:
---what the death of a member does (default: "break").
---@param name string
---@param parties? integer
---@param options? { on_death?: "break" | "shrink" }
---@return polyshm.barrier
function arena:barrier(name, parties, options) end

---The once of that name, which is made, not run, where there is none and the arena may be written.
---@param name string
---@return polyshm.once
function arena:once(name) end

---The latch of that name, which is made with `n` to count where there is none and the arena may be written.
---@param name string
---@param n? integer
---@return polyshm.latch
function arena:latch(name, n) end

---The read-write lock of that name, which is made where there is none and the arena may be written. `repair` is called with
---the lock held alone if a writer died.
---@param name string
---@param options? { repair?: fun(died: polyshm.error) }
---@return polyshm.rwlock
function arena:rwlock(name, options) end

---The object of that name, whatever it is.
---@param name string
---@return polyshm.object? object
---@return string? message
---@return string? code    "ENONAME" where there is none
function arena:open(name) end

---@param name string
---@return boolean
function arena:has(name) end

---Handles on the object raise `EDELETED` from then on.
---@param name string
---@return true? done
---@return string? message
---@return string? code    "ENONAME" where there is none
function arena:delete(name) end

---All objects, in no order. `kind` is a number where this version does not know the noun.
---@return { name: string, kind: string|integer }[]? list
---@return string? message
---@return string? code
function arena:list() end

---What is wrong in it, as texts: an empty table if all is well.
---@return string[]? findings
---@return string? message
---@return string? code
function arena:check() end

---@return polyshm.arena_stats
function arena:stats() end

---The threads that own or wait for something, or did, and the dead whose slot nobody has needed since.
---@return polyshm.participant[]? list
---@return string? message
---@return string? code
function arena:participants() end

---The place of root `index`, counted from 1: words that every arena has, and the first destinations.
---@param index integer    1 to 32
---@return integer place
function arena:root(index) end

---Allocates `size` zeroed bytes and puts their place into the destination at `place` (a root, or an aligned word of a block),
---which has to hold 0: one step, whoever dies.
---@param place integer
---@param size polyshm.bytes
---@return true? done
---@return string? message
---@return string? code
function arena:alloc_into(place, size) end

---Frees the block that the destination at `place` holds, and leaves 0 there.
---@param place integer
---@return true? done
---@return string? message
---@return string? code
function arena:free_from(place) end

---Bytes of the block at `place`: at least those that were asked for.
---@param place integer
---@return integer bytes
function arena:block_size(place) end

---`size` bytes at `place`, inside one block.
---@param place integer
---@param size polyshm.bytes
---@return string
function arena:read(place, size) end

---@param place integer
---@param data string
function arena:write(place, data) end

---Exact while nobody allocates.
---@class polyshm.arena_stats
---@field size integer            bytes of the arena
---@field heap integer            bytes of it that the heap can give out
---@field used integer            bytes of blocks that are in use
---@field free integer            bytes of all others
---@field largest_free integer    the largest block that could be had now
---@field large integer           blocks in use that have pages of their own
---@field large_pages integer     their pages
---@field objects integer         names
---@field taking_part integer     slots of threads that live
---@field participants integer    slots that there are
---@field classes { block: integer, pages: integer, used: integer, free: integer }[]    the sizes of small blocks

---A thread that owns or waits for something in an arena, or did, as it was when `arena:participants()` looked.
---@class polyshm.participant
---@field slot integer          its place in the table, from 0
---@field generation integer    of the slot: another one is another participant
---@field pid integer           as its own PID namespace sees it
---@field thread integer        as its own PID namespace sees it
---@field language "c"|"python"|"lua"
---@field alive boolean
---@field self boolean          the calling thread
---@field holds string[]        names of the locks that it has; "(heap)" and "(directory)" are the arena's own
---@field waits? string         the name of what it sleeps for
local participant = {}

---Waits until it is gone, up to `timeout` seconds: nil for ever, 0 not at all.
---@param timeout? number
---@return boolean gone
---@return "timeout"? why
function participant:wait(timeout) end

---A descriptor for an event loop, readable from when it may be gone. Each call arms it anew, once.
---@return integer fd
function participant:pollfd() end

---A mutex of an arena, by name. It knows the death of its owner in whatever PID namespace, and hands itself to who has waited
---for long.
---@class polyshm.mutex
local mutex = {}

---Waits up to `timeout` seconds: nil for ever, 0 not at all. Raises EOWNERDEAD (and it is not held) if the owner died and
---there is no `repair`; and if this thread has it, but for `timeout` 0.
---@param timeout? number
---@return boolean? acquired
---@return string? why    "timeout" or "held"
---@return string? code
function mutex:acquire(timeout) end

---For the thread that has it.
function mutex:release() end

---Acquires, for `local held <close> = mutex:guard()`. Never nil: a timeout and an owner's death raise.
---@param timeout? number
---@return polyshm.guard
function mutex:guard(timeout) end

---Acquires though the owner before died, which `died` tells. When the guard ends well, the mark of the death goes.
---@param timeout? number
---@return polyshm.guard held
---@return polyshm.error? died
function mutex:recover(timeout) end

---Does a living owner have it?
---@return boolean
function mutex:locked() end

---The process that has it.
---@return integer? pid
function mutex:owner() end

---@return string
function mutex:name() end

---A descriptor for an event loop, readable from when the lock may be had. Each call arms it anew, once: then try, and if
---that fails call it again before you poll.
---@return integer fd
function mutex:pollfd() end

---May its owner acquire it again?
---@return boolean
function mutex:recursive() end

---What waits, with a mutex, until somebody who has that mutex says that something has changed. No death loses a wake.
---@class polyshm.condition
local condition = {}

---Raises: it cannot be waited for by itself.
---@param at_least? integer
---@return integer
function condition:pollfd(at_least) end

---That of the mutex.
---@param timeout? number
---@return boolean? acquired
---@return string? why    "timeout" or "held"
---@return string? code
function condition:acquire(timeout) end

---That of the mutex.
function condition:release() end

---That of the mutex.
---@param timeout? number
---@return polyshm.guard
function condition:guard(timeout) end

---That of the mutex.
---@return boolean
function condition:locked() end

---@return polyshm.mutex
function condition:mutex() end

---Releases the mutex, however often it is held, waits to be notified, and has it as often again. Wakes up for no reason now
---and then. Raises EOWNERDEAD (and the mutex is not held) if its owner died and it has no `repair`.
---@param timeout? number
---@return boolean notified
---@return string? why    "timeout"
function condition:wait(timeout) end

---Waits until `predicate()`, called with the mutex held, is true.
---@generic T
---@param predicate fun(): T
---@param timeout? number
---@return T value    what it gave last
---@return string? why    "timeout"
function condition:wait_for(predicate, timeout) end

---Wakes `n` (default: 1) of those who wait, perhaps more. Only with the mutex held.
---@param n? integer
function condition:notify(n) end

---Wakes all who wait. Only with the mutex held.
function condition:notify_all() end

---@return string
function condition:name() end

---Two locks in one, as polyshm.mutex each: many can read, or one writes. Whoever waits to write goes first.
---@class polyshm.rwlock
---@field read polyshm.rwlock_side    many can have it
---@field write polyshm.rwlock_side   one has it alone, and goes first
local rwlock = {}

---@return string
function rwlock:name() end

---Turns what this thread has for writing into reading; nobody writes between. The guard of `write` ends it as well.
function rwlock:downgrade() end

---Raises: it cannot be waited for.
---@param at_least? integer
---@return integer
function rwlock:pollfd(at_least) end

---A lock, as polyshm.mutex.
---@class polyshm.rwlock_side
local rwlock_side = {}

---Raises: it cannot be waited for.
---@param at_least? integer
---@return integer
function rwlock_side:pollfd(at_least) end

---@return string name  of the whole
function rwlock_side:name() end

---@param timeout? number   seconds; nil: for ever, 0: not at all
---@return boolean acquired
---@return string? why      "timeout", or "held" where this thread has it and the timeout is 0
function rwlock_side:acquire(timeout) end

---@param timeout? number
---@return polyshm.guard    releases when it goes out of scope
function rwlock_side:guard(timeout) end

function rwlock_side:release() end

---@return boolean
function rwlock_side:locked() end

---@return integer? pid     of who writes; of `read` always nil
function rwlock_side:owner() end

---@param timeout? number
---@return polyshm.guard    takes the mark away and releases; ended by an error it only releases
---@return polyshm.error? died
function rwlock_side:recover(timeout) end

---Places that nobody owns.
---@class polyshm.semaphore
local semaphore = {}

---@return string
function semaphore:name() end

---A descriptor that becomes readable when it may be ready; call again to arm it anew.
---@return integer fd
function semaphore:pollfd() end

---Takes one, waiting up to `timeout` seconds: nil for ever, 0 not at all.
---@param timeout? number
---@return boolean acquired
---@return string? why    "timeout"
function semaphore:acquire(timeout) end

---Gives `n` (1) back, whoever took them.
---@param n? integer
function semaphore:release(n) end

---Acquires, for `local place <close> = semaphore:guard()`. Never nil: a timeout raises.
---@param timeout? number
---@return polyshm.semaphore_guard
function semaphore:guard(timeout) end

---What a guard of a semaphore is.
---@class polyshm.semaphore_guard
local semaphore_guard = {}

---Gives it back now; once is enough.
function semaphore_guard:release() end

---How many are free now.
---@return integer
function semaphore:value() end

---So many at a time, owned by the thread that took them; its death gives them back.
---@class polyshm.permits
local permits = {}

---@return string
function permits:name() end

---A descriptor that becomes readable when `at_least` (1) may be free; call again to arm it anew.
---@param at_least? integer
---@return integer fd
function permits:pollfd(at_least) end

---Takes `n` (1), all or none, waiting up to `timeout` seconds: nil for ever, 0 not at all.
---@param n? integer
---@param timeout? number
---@return boolean acquired
---@return string? why    "timeout"
function permits:acquire(n, timeout) end

---Gives `n` (1) of this thread's back.
---@param n? integer
function permits:release(n) end

---Acquires, for `local held <close> = permits:guard()`. Never nil: a timeout raises.
---@param n? integer
---@param timeout? number
---@return polyshm.permits_guard
function permits:guard(n, timeout) end

---How many could be had now.
---@return integer
function permits:available() end

---How many this thread has.
---@return integer
function permits:held() end

---How many there are.
---@return integer
function permits:total() end

---What a guard of permits is.
---@class polyshm.permits_guard
local permits_guard = {}

---Gives them back now; once is enough.
function permits_guard:release() end

---Set or clear, and waited for.
---@class polyshm.event
local event = {}

---@return string
function event:name() end

---A descriptor that becomes readable when it may be ready; call again to arm it anew.
---@return integer fd
function event:pollfd() end

function event:set() end

function event:clear() end

---@return boolean
function event:is_set() end

---Waits up to `timeout` seconds (nil: for ever, 0: not at all) until it is set, or was since the wait began.
---@param timeout? number
---@return boolean
---@return string? why    "timeout"
function event:wait(timeout) end

---Does it clear itself, and let one waiter go each time?
---@return boolean
function event:auto() end

---As many as it has parties wait for each other, again and again.
---@class polyshm.barrier
local barrier = {}

---@return string
function barrier:name() end

---Raises: it cannot be waited for by others than its members.
---@param at_least? integer
---@return integer
function barrier:pollfd(at_least) end

---Waits until as many have come as there are parties. Raises {code = "EBROKEN"}; so it does after `timeout` seconds, for all.
---@param timeout? number
---@return integer index    how many had come before
function barrier:wait(timeout) end

---Makes this thread a member before its first wait.
function barrier:join() end

---This thread is a member no longer.
function barrier:leave() end

---Makes it whole again; who waits gets {code = "EBROKEN"}. Where a death breaks it, the dead are members no longer.
function barrier:reset() end

---Breaks it until somebody resets it.
function barrier:abort() end

---@return integer
function barrier:parties() end

---@return integer
function barrier:n_waiting() end

---@return boolean
function barrier:broken() end

---@return "break" | "shrink"
function barrier:on_death() end

---What is run once, by whoever comes first; if that one dies, by the next.
---@class polyshm.once
local once = {}

---@return string
function once:name() end

---A descriptor that becomes readable when it may be ready; call again to arm it anew.
---@return integer fd
function once:pollfd() end

---Calls fn(), unless it was run by anybody. While another runs it this waits; raises {code = "ETIMEDOUT"} after `timeout` seconds.
---@param fn function
---@param timeout? number
---@return boolean ran    by this call
function once:run(fn, timeout) end

---Was it run?
---@return boolean
function once:done() end

---Counts down to 0, once.
---@class polyshm.latch
local latch = {}

---@return string
function latch:name() end

---A descriptor that becomes readable when it may be ready; call again to arm it anew.
---@return integer fd
function latch:pollfd() end

---Counts `n` (1) down, to 0 at the least.
---@param n? integer
---@return integer left
function latch:count_down(n) end

---What is left to count.
---@return integer
function latch:count() end

---Waits up to `timeout` seconds (nil: for ever, 0: not at all) until it is 0.
---@param timeout? number
---@return boolean
---@return string? why    "timeout"
function latch:wait(timeout) end

---A number of 64 bits that processes change together, all sequentially consistent. Arithmetic wraps.
---@class polyshm.counter
local counter = {}

---Adds `by` (default: 1).
---@param by? integer
---@return integer now    the new value
function counter:add(by) end

---Takes `by` (default: 1) away.
---@param by? integer
---@return integer now    the new value
function counter:sub(by) end

---@return integer
function counter:load() end

---@param value integer
function counter:store(value) end

---@param value integer
---@return integer previous
function counter:exchange(value) end

---Stores `desired` if the value is `expected`: it was, if that is what comes back.
---@param expected integer
---@param desired integer
---@return integer previous
function counter:compare_exchange(expected, desired) end

---Raises it to `value` if it is less.
---@param value integer
---@return integer now    the new value
function counter:max(value) end

---Lowers it to `value` if it is more.
---@param value integer
---@return integer now    the new value
function counter:min(value) end

---Waits until the value is `at_least` or more, up to `timeout` seconds: nil for ever, 0 not at all.
---@param at_least integer
---@param timeout? number
---@return boolean reached
---@return "timeout"? why
function counter:wait(at_least, timeout) end

---@return string
function counter:name() end

---A descriptor for an event loop, readable from when the value is `at_least` (default: 1) or more. Each call arms it anew,
---once.
---@param at_least? integer
---@return integer fd
function counter:pollfd(at_least) end

return polyshm
