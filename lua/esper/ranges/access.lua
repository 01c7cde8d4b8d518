--- Accesses to memory in the range proof: each is proved to start at 0 or later and to end within its buffer, or it is not. Methods of
-- the executor (steps.lua); block.lua calls them for vector blocks.
--
-- The offset of an address is what is left of it without its buffer's atom. A site is a load or store in the text, or a call
-- of a block with one of its instructions; it is proved when every way to it is.

require("jit").off(true, true) -- see poly.lua
local block = require "esper.ranges.block"

local M = {}
local SHORT = 80 -- steps that most proofs do with
local FAILURES, FAST = 3, 40 -- of a function: after so many accesses that were not proved the others are proved in few steps or not at all

function M.install(Exec)
  -- The buffer of an address: its atom and the offset; nil when it has none, or more than one may be meant.
  function Exec:buffer_of(address)
    local s, found = self.space, nil
    for x in pairs(s:atoms(address)) do
      if self.buffers[x] then
        if found then return nil end
        found = x
      end
    end
    if not found then return nil end
    local a, offset = s:around(address, found)
    if s:value(a) == 1 then return found, offset end
  end

  function Exec:inside(address, from, to)
    local s = self.space
    local buffer, offset = self:buffer_of(address)
    if not buffer then return self:inside_cases(address, from, to) end
    local low = s:plus(offset, s:number(from))
    local high = s:minus(s:minus(self.buffers[buffer].bytes, offset), s:number(to))
    local patient = self.failed < FAILURES
    local steps, detours = patient and SHORT or FAST, not patient and 0 or nil
    if s:prove(low, steps, detours) and s:prove(high, steps, detours) then return "proved", buffer end
    if s:lifeless() and s:impossible() then return "proved", buffer end -- this access never takes place
    if patient then
      if s:prove(low) and s:prove(high) then return "proved", buffer end
      self.failed = self.failed + 1
    end
    return "unproved", buffer, low, high
  end

  -- An address that is one of several: in each case.
  function Exec:inside_cases(address, from, to)
    local s = self.space
    for _, x in ipairs(s:newest_first(address)) do
      local split = s.splits[x]
      if split then
        local buffer
        for _, case in ipairs(split.cases) do
          s:open()
          for _, p in ipairs(case.facts) do s:assume(p) end
          local at = address
          for y, v in pairs(case.values) do at = s:put(at, y, v) end
          local status
          status, buffer = self:inside(at, from, to)
          s:close()
          if status ~= "proved" then return status, buffer end
        end
        return "proved", buffer
      end
    end
    return "data"
  end

  local RANK = { proved = 1, data = 2, unproved = 3, violated = 4 }

  function Exec:record(site, status, detail)
    local old = self.sites[site]
    if not old then
      self.order[#self.order + 1] = site
      self.sites[site] = { status = status, detail = detail }
    elseif RANK[status] > RANK[old.status] then
      old.status, old.detail = status, detail
    end
  end

  -- A load or store of the C text.
  function Exec:touch(address, size, site)
    if self.exploring > 0 then return end
    if not address then return self:record(site, "data", { text = "C text" }) end
    self:verdict(site, address, 0, size, "C text")
  end

  -- Of an access that was not proved: the shape at which it leaves its buffer and by how many bytes, when a point shows it.
  function Exec:refute(low, high)
    local s = self.space
    for side, distance in pairs { before = low, past = high } do
      local point = s:witness(distance)
      if point then return { point = point, side = side, bytes = -s:at(distance, point) } end
    end
  end

  function Exec:verdict(site, address, from, to, text)
    local known = self.sites[site]
    if known and known.status == "unproved" then return end -- it failed on another way to it
    local status, buffer, low, high = self:inside(address, from, to)
    local found = status == "unproved" and low and self:refute(low, high)
    self:record(site, found and "violated" or status, { text = text, buffer = buffer and self.buffers[buffer].name, found = found or nil })
  end

  -- Callbacks of block.lua. A site is a call with an instruction.
  function Exec:bytes(c, address, from, to) self:verdict(self:site(c), address, from, to, c.text) end
  function Exec:all(group, address)
    local status, buffer = self:inside(address, group.from, group.to)
    if status ~= "proved" then return false end
    for _, one in ipairs(group.list) do self:record(self:site(one.c), "proved", { buffer = self.buffers[buffer].name }) end
    return true
  end
  function Exec:unknown(c) self:record(self:site(c), "data", { text = c.text }) end

  function Exec:site(c)
    local sites = self.calls[self.call]
    if not sites then
      sites = {}
      self.calls[self.call] = sites
    end
    sites[c] = sites[c] or { self.call }
    return sites[c]
  end

  function Exec:positive(p)
    local s = self.space
    if s:prove(p, 60) then return p end
    local key = s:key(p)
    local v = self.kept[key]
    if not v then
      local cases = { { facts = { p } }, { facts = { s:minus(s:number(-1), p) } } }
      v = s:choice(s:split(cases), { p, {} }, true)
      s:scoped(self.kept, key, v)
    end
    return v
  end

  function Exec:at_least_one(p)
    for _, fact in ipairs(self:decided(p, true)) do self.space:assume(fact) end
  end

  function Exec:block(name, array, x)
    if self.exploring > 0 then return end
    local words = {}
    for i = 0, self.arrays[array] - 1 do
      local word = self.env[array .. "[" .. i .. "]"]
      words[i] = word and word.v
    end
    self.call = x
    local program = self.programs[name]
    if program.unread then
      self.space:open()
      self:record(x, "unproved", { text = program.unread })
      self.space:close()
      return
    end
    self.space:open()
    block.call(self.space, program, words, self, self.level)
    self.space:close()
  end
end

return M
