--- The epilogue over a rectangle of the anchor's output: many rows, some columns of each, in one call of one vector
-- block. Used by emit_writer.lua for recipes whose tiles are narrower than a row.
--
-- A row is one position of all axes of the group's space but the last. The rectangle is one block when the chain is one
-- vector stage and every operand steps evenly from row to row; otherwise each row is an epilogue of its own.

local amount = require "esper.emit_amount"
local chain = require "esper.emit_chain"
local nodes = require "esper.vecmath_nodes"
local stages = require "esper.emit_stage"
local sweep = require "esper.emit_sweep"

local M = {}

local LIGHT = 4 -- instructions on a vector, about, up to which a chain is worth repeating for every register of a tile

-- The stride from row to row of an operand with these strides over the space; nil when it is not the same everywhere.
local function row_stride(k, space, strides)
  local extents, lists = k:collapse({ unpack(space, 1, #space - 1) }, { { unpack(strides, 1, #space - 1) } })
  return #extents == 1 and lists[1][1] or nil
end

-- Operands { at=, offset=, strides=, bytes= } as { ptr=, step=, row= } at the rectangle's first element; nil when one of
-- them steps unevenly.
local function place(k, o, operands)
  local space, placed = k.group.space, {}
  for i, operand in ipairs(operands) do
    local ptr, type = k:name("q"), operand.index and "long " or "char *"
    if operand.raw then
      placed[i] = { from = o.from, row_bytes = o.from_step, step = k.dims:const(1), type = type, ptr = ptr }
    else
      local along = row_stride(k, space, operand.strides)
      if not along then return nil end
      local step = operand.strides[#space]
      local from = k:offset(operand.offset, { along, step }, { o.row, o.column })
      if not operand.index then from = ("(char *)(%s + (%s) * %dL)"):format(k:atom(operand.at), from, operand.bytes) end
      placed[i] = { from = from, row = along, step = step, type = type, ptr = ptr }
    end
  end
  for _, operand in ipairs(placed) do
    if operand.from then k:line("%s%s = %s;", operand.type, operand.ptr, operand.from) end
  end
  return placed
end

-- The chain over raw values `from`, with its operands: sources, stores, the linear index; nil when it is no vector block.
local function planned(k, from, plus)
  local spec, raw = chain.epilogue_spec(k, { start = "0", from = from, plus = plus })
  local plan = chain.plan(k, spec)
  if #plan.stages == 0 or plan.stages[1].kind ~= "vector" then return nil end
  local operands, own = {}, k:contiguous(k.group.space)
  for i, source in ipairs(plan.sources) do
    operands[i] = source == raw and { raw = true }
      or { at = k:read(source), strides = source.strides, offset = source.offset, bytes = k:bytes(source.dtype) }
  end
  for _, id in ipairs(spec.stores) do
    operands[#operands + 1] = { at = k:write(id), strides = own, bytes = k:bytes(k.graph:dtype(id)) }
  end
  if next(plan.random) then operands[#operands + 1] = { index = true, strides = own } end
  return plan, operands, spec.stores
end

-- One block for the whole rectangle; false when it cannot be.
local function as_block(k, o)
  local plan, operands, stores = planned(k, o.from, o.plus)
  if not plan then return false end
  local w = place(k, o, operands)
  if not w then return false end
  w.n, w.rows = o.n, o.rows
  stages.run(plan, w, stores)
  return true
end

-- ---- on registers ----

local Ending = {}
Ending.__index = Ending

--- See k:ending in emit_writer.lua.
function M.ending(k, plus)
  local plan, operands, stores = planned(k, "raw", plus)
  if not plan or next(plan.random) then return nil end
  local cost, space = 0, k.group.space
  for _, id in ipairs(plan.nodes) do cost = cost + (plan.custom[id] and 0 or nodes.cost(k.graph:op(id))) end
  if cost > LIGHT then return nil end
  for _, operand in ipairs(operands) do
    local step = operand.raw and 1 or k.dims:value(operand.strides[#space])
    if not (operand.raw or row_stride(k, space, operand.strides)) or step ~= 0 and step ~= 1 then return nil end
  end
  return setmetatable({ k = k, plan = plan, operands = operands, stores = stores }, Ending)
end

-- Operand w of place() in the block of sweep s: load(offset) its vectors along the present row; move, ask as of k:ending.
local function along_rows(s, w)
  local b, at = s.b, s:pointer(w.ptr)
  local row, single = amount.of(s.k, w.row, b.bytes), s.k.dims:value(w.step) == 0
  local line = { at = at, load = function(offset) return single and b:bcast(at) or b:load(at, offset) end }
  function line.move(rows, bytes, times)
    s:move(at, amount.mul(row, rows))
    if bytes and not single then b:g_set(at, times and b:g_add(at, b:g_mulk(times, bytes)) or b:g_addk(at, bytes)) end
  end
  function line.ask(rows, bytes)
    for i = 0, type(row) == "number" and row ~= 0 and rows - 1 or -1 do
      for offset = 0, single and 0 or bytes - 1, 64 do b:prefetch(at, i * row + offset) end
    end
  end
  return line
end

function Ending:over(row, column, words)
  local k, plan = self.k, self.plan
  local placed, sources = place(k, { row = row, column = column }, self.operands), #plan.sources
  return function(b)
    local s, lines = sweep.new(k, b), {}
    s.words = words
    for i, operand in ipairs(self.operands) do lines[i] = not operand.raw and along_rows(s, placed[i]) end
    local function each(first, last, name, ...)
      for i = first, last do
        if lines[i] then lines[i][name](...) end
      end
    end
    local ending = {}
    function ending.move(...) each(1, #lines, "move", ...) end
    function ending.ask(...) each(1, #lines, "ask", ...) end
    function ending.compute(vectors)
      local values = {}
      for j, raw in ipairs(vectors) do
        local offset = (j - 1) * b.lanes * b.bytes
        values[j] = stages.compute(plan, b, plan.stages[1], function(arg)
          return lines[arg.source] and lines[arg.source].load(offset) or raw
        end)
      end
      each(1, sources, "move", 1)
      return values
    end
    function ending.store(values)
      for j, value in ipairs(values) do
        for i, id in ipairs(self.stores) do b:store(lines[sources + i].at, value[id], (j - 1) * b.lanes * b.bytes) end
      end
      each(sources + 1, #lines, "move", 1)
    end
    return ending
  end
end

--- See k:epilogue_rows in emit_writer.lua.
function M.epilogue_rows(k, o)
  k:open("if (%s > 0 && %s > 0)", o.rows, o.n)
  if not as_block(k, o) then
    local r = k:name("r")
    k:open("for (long %s = 0; %s < %s; %s++)", r, r, o.rows, r)
    local columns = k:dim(k.group.space[#k.group.space])
    k:epilogue { start = ("(%s + %s) * %s + %s"):format(k:atom(o.row), r, columns, k:atom(o.column)), n = o.n,
      from = ("%s + %s * %s"):format(k:atom(o.from), r, k:atom(o.from_step)), plus = o.plus }
    k:close()
  end
  k:close()
end

return M
