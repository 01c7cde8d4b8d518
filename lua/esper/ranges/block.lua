--- The vector blocks in the range proof: which bytes a call of a block may touch. Between vec.lua's listings and the checks of
-- steps.lua.
--
-- A scalar register is a polynomial, an address among them: the atom of its buffer plus an offset. A counted loop is read twice.
-- First its scalar instructions alone, from unknown starting values: a register that comes out as what it was plus a change
-- free of anything that the loop itself varies moves by that change every time. Then, with p = start + turn * change for a turn
-- 0 <= turn < count, its memory instructions are checked. What moves otherwise is unknown (false), and so is every address made of it.
-- A mask made by m_tail(g) holds lanes below g; masks made otherwise count as full.
-- Invariant: an instruction with a scalar operand that is not known here stops the reading; so a new memory instruction of
-- vec.def cannot be passed over.

require("jit").off(true, true) -- see poly.lua
local M = {}

-- Memory rows: place of stride and mask among the operands; rows = whole vectors, one element, or lanes apart.
local MEMORY = {
  load = { "lanes" }, loadm = { "lanes", mask = 3 }, bcast = { "one" }, loads = { "apart" }, loadsm = { "apart", mask = 4 },
  store = { "lanes", write = true }, storem = { "lanes", mask = 4, write = true }, loadx = { "lanes", scaled = true },
  bcastx = { "one", scaled = true }, stores = { "apart", write = true }, storesm = { "apart", mask = 5, write = true },
  store1 = { "one", write = true }, storent = { "lanes", write = true },
}
local SCALAR = { g_arg = true, g_const = true, g_add = true, g_addk = true, g_sub = true, g_mulk = true, g_shrk = true, g_set = true }
local SILENT = { prefetch = true, splatg = true } -- take a scalar and touch nothing
local KEPT = { load = 2, loadm = 2, bcast = 2, store = 3, storem = 3, store1 = 3, loads = 3, loadsm = 3, stores = 4, storesm = 4,
  loadx = 3, bcastx = 3, storent = 3 } -- place of the constant offset

local function operands(text)
  local list = {}
  for word in text:gmatch "[^%s,]+" do list[#list + 1] = word end
  return list
end

-- One line as { op=, to=, args=, ... }, nil when it neither counts, addresses nor masks.
local function instruction(line)
  local to, op, kind, rest = line:match "^%s*([gvm]%d+) = ([%w_]+)%.?(%w*)%s*(.*)$"
  if not to then op, kind, rest = line:match "^%s*([%w_]+)%.?(%w*)%s*(.*)$" end
  if not op then return nil end
  local memory = MEMORY[op]
  if memory or SCALAR[op] or op == "loop" or op == "end" or op == "m_tail" or op == "m_and" or op == "m_not" then
    return { op = op, to = to, args = operands(rest), memory = memory, text = line:match "^%s*(.*)$",
      bytes = (kind == "f64" or kind == "i64") and 8 or 4 }
  end
  for _, word in ipairs(operands(rest)) do
    if word:find "^g%d" and not SILENT[op] then error("vector block: unread instruction " .. line, 0) end
  end
  if to and to:find "^g" then error("vector block: unread instruction " .. line, 0) end
end

-- Where each loop ends, and which registers made before it are set inside.
local function loops(code)
  local open = {}
  for i, c in ipairs(code) do
    if c.op == "loop" then
      open[#open + 1] = c
      c.set = {}
    elseif c.op == "end" then
      local from = table.remove(open)
      from.stop, from.names = i, {}
      for r in pairs(from.set) do from.names[#from.names + 1] = r end
      table.sort(from.names)
      for r in pairs(from.set) do if open[#open] then open[#open].set[r] = true end end
    elseif c.op == "g_set" and open[#open] then
      open[#open].set[c.args[1]] = true
    end
  end
end

--- The program of a block from its listing (b:text()).
function M.read(text)
  local lanes = tonumber(text:match "^block %w+, (%d+) lanes")
  if not lanes then error("vector block: no listing", 0) end
  local code = {}
  for line in text:gmatch "\n([^\n]+)" do code[#code + 1] = instruction(line) end
  loops(code)
  return { lanes = lanes, code = code }
end

-- ---- execution ----

local Run = {}
Run.__index = Run

local function both(a, b, f) return a and b and f(a, b) end

local function power(k) return 2 ^ tonumber(k) end

local EVALUATE = {
  g_arg = function(r, a) return r.words[tonumber(a[1])] end,
  g_const = function(r, a) return math.abs(tonumber(a[1])) < 2 ^ 53 and r.space:number(tonumber(a[1])) end,
  g_add = function(r, a) return both(r.env[a[1]], r.env[a[2]], function(x, y) return r.space:plus(x, y) end) end,
  g_sub = function(r, a) return both(r.env[a[1]], r.env[a[2]], function(x, y) return r.space:minus(x, y) end) end,
  g_addk = function(r, a) return r.env[a[1]] and r.space:plus(r.env[a[1]], r.space:number(tonumber(a[2]))) end,
  g_mulk = function(r, a) return r.env[a[1]] and r.space:scaled(r.env[a[1]], tonumber(a[2])) end,
  g_shrk = function(r, a)
    return r.env[a[1]] and r.space:quotient(r.env[a[1]], r.space:number(power(a[2])), true) or false
  end,
}

-- Scalars of one instruction.
function Run:scalar(c)
  if c.op == "g_set" then
    self.env[c.args[1]] = self.env[c.args[2]]
  else
    self.env[c.to] = EVALUATE[c.op](self, c.args) or false
  end
end

-- How often a loop runs: max(count, 0).
function Run:trips(count)
  local s = self.space
  if not count then return false end
  local n = s:value(count)
  if n then return s:number(math.max(n, 0)) end
  return self.check:positive(count)
end

-- What a turn of the loop at `at` does to the registers set in it: { by = change } when it is the same every time, { to = value }
-- when that does not depend on the turn, { to = false } otherwise.
-- fixed: registers known to stay as they are; those that come out as they went in are found to be so, and looked at again.
function Run:changes(at, fixed)
  local s, loop, start, out = self.space, self.code[at], self.env, {}
  self.level = self.level + 1
  local level, marks = self.level, {}
  self.env = setmetatable({}, { __index = start })
  for _, r in ipairs(loop.names) do
    if start[r] ~= nil and not fixed[r] then
      marks[r] = s:atom(level)
      self.env[r] = s:var(marks[r])
    end
  end
  self:span(at + 1, loop.stop - 1, false)
  for r, x in pairs(marks) do
    local v = self.env[r]
    local change = v and s:minus(v, s:var(x))
    if change and s:level_of(change) < level then out[r] = { by = change }
    else out[r] = { to = v and s:level_of(v) < level and v } end
  end
  self.env, self.level = start, level - 1
  local more = false
  for r, change in pairs(out) do
    if change.to and start[r] and s:key(change.to) == s:key(start[r]) then fixed[r], more = true, true end
  end
  if more then out = self:changes(at, fixed) end
  for r in pairs(fixed) do out[r] = { by = {} } end
  return out
end

-- The registers after `turns` turns (a polynomial, or false); done: these are all, so at least one if `some`.
local function moved(s, start, changes, turns, some)
  local out = {}
  for r, change in pairs(changes) do
    local from = start[r]
    if some and change.to then out[r] = change.to
    elseif from and change.by then
      out[r] = next(change.by) == nil and from or turns and s:plus(from, s:mul(turns, change.by))
    else out[r] = false end
  end
  return out
end

-- Is there a register that every turn leaves with the same value, other than its first, and one that is not understood?
local function uneven(s, start, changes)
  local settled, unknown = false, false
  for r, change in pairs(changes) do
    if change.to and start[r] and s:key(change.to) ~= s:key(start[r]) then settled = true end
    if change.to == false then unknown = true end
  end
  return settled and unknown
end

function Run:loop(at, checked, count)
  local s, loop = self.space, self.code[at]
  count = count or self.env[loop.args[1]]
  local n = count and s:value(count)
  if n and n <= 0 then return loop.stop end
  if n == 1 then -- its registers are as they come
    self:span(at + 1, loop.stop - 1, checked)
    return loop.stop
  end
  local changes = #loop.names > 0 and self:changes(at, {}) or {}
  if count and uneven(s, self.env, changes) and s:prove(s:plus(count, s:number(-1)), 60) then -- the first turn by itself
    self:span(at + 1, loop.stop - 1, checked)
    return self:loop(at, checked, s:plus(count, s:number(-1)))
  end
  local start = {}
  for r in pairs(changes) do start[r] = self.env[r] end
  if checked then
    s:open()
    local k = s:var(s:atom(self.level))
    s:assume(k)
    if count then s:assume(s:plus(s:minus(count, k), s:number(-1))) end
    if count then self.check:at_least_one(count) end
    for r, v in pairs(moved(s, start, changes, k)) do self.env[r] = v end
    self:span(at + 1, loop.stop - 1, true)
    s:close()
  end
  if #loop.names == 0 then return loop.stop end
  local some = count and s:prove(s:plus(count, s:number(-1)), 60)
  for r, v in pairs(moved(s, start, changes, some and count or self:trips(count), some)) do self.env[r] = v end
  return loop.stop
end

-- ---- memory ----

-- A mask is a list of conditions that its lanes meet, { g, below = lane < g or not }; none is known of a mask made otherwise.
function Run:mask(c)
  local x, y = self.masks[c.args[1]] or {}, self.masks[c.args[2]] or {}
  local list = {}
  if c.op == "m_tail" then
    list[1] = { g = self.env[c.args[1]], below = true }
  elseif c.op == "m_not" then
    if #x == 1 then list[1] = { g = x[1].g, below = not x[1].below } end
  else
    for _, condition in ipairs(x) do list[#list + 1] = condition end
    for _, condition in ipairs(y) do list[#list + 1] = condition end
  end
  self.masks[c.to] = list
end

-- Any lane that a mask leaves, with what holds for it in the present scope.
function Run:lane(mask)
  local s = self.space
  local lane = s:var(s:atom(self.level))
  s:assume(lane)
  s:assume(s:minus(s:number(self.lanes - 1), lane))
  for _, condition in ipairs(mask or {}) do
    local g = condition.g
    if g then s:assume(condition.below and s:plus(s:minus(g, lane), s:number(-1)) or s:minus(lane, g)) end
  end
  return lane
end

-- Checks accesses of whole vectors (or elements) at one address and under one mask, as one range first.
local function check_group(r, group)
  local s, masked = r.space, group.mask and group.mask[1]
  local address = group.address
  if masked then
    s:open()
    address = s:plus(address, r:lane(group.mask), group.list[1].c.bytes)
  end
  if #group.list == 1 or not r.check:all(group, address) then
    for _, one in ipairs(group.list) do r.check:bytes(one.c, address, one.from, one.to) end
  end
  if masked then s:close() end
end

function Run:flush()
  for _, group in ipairs(self.groups) do check_group(self, group) end
end

-- Notes bytes from .. to - 1 behind an address; what was noted is checked at the end of the loop's body, outside of loops in it.
function Run:note(c, address, mask, from, to)
  local key = self.space:key(address) .. (mask and c.args[c.memory.mask] or "")
  local group = self.at[key]
  if not group then
    group = { address = address, mask = mask, list = {}, from = from, to = to }
    self.at[key] = group
    self.groups[#self.groups + 1] = group
  end
  group.from, group.to = math.min(group.from, from), math.max(group.to, to)
  group.list[#group.list + 1] = { c = c, from = from, to = to }
end

-- Lanes that lie a stride apart.
function Run:apart(c, address, mask, k)
  local s, stride = self.space, self.env[c.args[2]]
  if not stride then return self.check:unknown(c) end
  s:open()
  self.check:bytes(c, s:plus(address, s:mul(self:lane(mask), stride)), k, k + c.bytes)
  s:close()
end

function Run:touch(c)
  local s, m = self.space, c.memory
  local form, address = m[1], self.env[c.args[1]]
  local k = tonumber(c.args[KEPT[c.op]])
  if m.scaled then
    local h = self.env[c.args[2]]
    address = address and h and s:plus(address, h, tonumber(c.args[4]))
  end
  if not address then return self.check:unknown(c) end
  local mask = m.mask and self.masks[c.args[m.mask]]
  if form == "apart" then return self:apart(c, address, mask, k) end
  if mask and not mask[1] then mask = nil end
  self:note(c, address, mask, k, k + c.bytes * (form == "one" and 1 or mask and 1 or self.lanes))
end

function Run:span(from, to, checked)
  local i, groups, at = from, self.groups, self.at
  self.groups, self.at = {}, {}
  while i <= to do
    local c = self.code[i]
    if c.op == "loop" then
      i = self:loop(i, checked)
    elseif SCALAR[c.op] then
      self:scalar(c)
    elseif checked then
      if c.memory then self:touch(c) else self:mask(c) end
    end
    i = i + 1
  end
  self:flush()
  self.groups, self.at = groups, at
end

--- Checks a call of `program` with these words ([0] = polynomial or false). check: bytes(c, address, from, to), unknown(c),
-- positive(p) = max(p, 0), at_least_one(p) (steps.lua).
function M.call(space, program, words, check, level)
  local run = setmetatable({ space = space, code = program.code, lanes = program.lanes, words = words, check = check, env = {},
    masks = {}, groups = {}, at = {}, level = level }, Run)
  run:span(1, #program.code, true)
end

return M
