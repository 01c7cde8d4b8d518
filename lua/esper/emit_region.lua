--- The epilogue over a rectangle of the anchor's output: many rows, some columns of each, in one call of one vector
-- block. Used by emit_writer.lua for recipes whose tiles are narrower than a row.
--
-- A row is one position of all axes of the group's space but the last. The rectangle is one block when the chain is one
-- vector stage and every operand steps evenly from row to row; otherwise each row is an epilogue of its own.

local chain = require "esper.emit_chain"
local stages = require "esper.emit_stage"

local M = {}

-- The stride from row to row of an operand with these strides over the space; nil when it is not the same everywhere.
local function row_stride(k, space, strides)
  local extents, lists = k:collapse({ unpack(space, 1, #space - 1) }, { { unpack(strides, 1, #space - 1) } })
  return #extents == 1 and lists[1][1] or nil
end

-- Operands { at=, offset=, strides=, bytes=, dtype= } as { ptr=, step=, row=, dtype= } at the rectangle's first element;
-- row: C expression, bytes from row to row. nil when one of them steps unevenly.
local function place(k, o, operands)
  local space, placed = k.group.space, {}
  for i, operand in ipairs(operands) do
    local ptr = k:name("q")
    if operand.raw then
      placed[i] = { from = o.from, row = o.from_step, step = k.dims:const(1), dtype = operand.dtype, ptr = ptr }
    else
      local along = row_stride(k, space, operand.strides)
      if not along then return nil end
      local step = operand.strides[#space]
      local offset = k:offset(operand.offset, { along, step }, { o.row, o.column })
      placed[i] = { from = ("%s + (%s) * %dL"):format(k:atom(operand.at), offset, operand.bytes),
        row = ("%s * %dL"):format(k:dim(along), operand.bytes), step = step, dtype = operand.dtype, ptr = ptr }
    end
  end
  for _, operand in ipairs(placed) do k:line("char *%s = (char *)%s;", operand.ptr, operand.from) end
  return placed
end

-- The stage over all rows: words are rows, columns, then per operand its address and steps, then the row steps.
local function run(k, plan, o, sources, targets, stores)
  local stage, words = plan.stages[1], { o.rows, o.n }
  stages.words(k, targets, stages.words(k, sources, words))
  local first_row = #words
  for _, list in ipairs { sources, targets } do
    for _, operand in ipairs(list) do words[#words + 1] = operand.row end
  end
  k:call(k:block(function(b)
    local bound, next_word = stages.bind(k, b, sources, 2)
    local out = stages.bind(k, b, targets, next_word)
    local all = {}
    for _, list in ipairs { bound, out } do
      for _, operand in ipairs(list) do
        operand.start = b:copy(operand.ptr)
        all[#all + 1] = operand
      end
    end
    b:loop(b:arg(0), function()
      local advance, hoisted = {}, {}
      for i, operand in ipairs(all) do
        operand.ptr = b:copy(operand.start)
        if operand.fixed then hoisted[i] = b:bcast(operand.ptr) end
        if not operand.fixed then advance[#advance + 1] = operand.step and { operand.ptr, step = operand.step } or operand.ptr end
      end
      b:each(b:arg(1), advance, function(mask)
        local loaded = {}
        local value = stages.compute(plan, b, stage, function(arg)
          local i = arg.source
          loaded[i] = hoisted[i] or loaded[i] or stages.load(b, bound[i], mask)
          return loaded[i]
        end)
        for i, id in ipairs(stores) do stages.store(b, out[i], value[id], mask) end
      end)
      for i, operand in ipairs(all) do
        b:g_set(operand.start, b:g_add(operand.start, b:arg(first_row + i - 1)))
      end
    end)
  end, stage.dtype), words)
end

-- One block for the whole rectangle; false when it cannot be.
local function as_block(k, o)
  local spec, raw = chain.epilogue_spec(k, { start = "0", from = o.from, plus = o.plus })
  local plan = chain.plan(k, spec)
  if not plan.simple or #plan.stages == 0 then return false end
  local operands, stores = {}, spec.stores
  for i, source in ipairs(plan.sources) do
    operands[i] = { raw = source == raw, dtype = source.dtype, strides = source.strides,
      offset = source.offset }
    if source ~= raw then operands[i].at, operands[i].bytes = k:read(source), k:bytes(source.dtype) end
  end
  local own = k:contiguous(k.group.space)
  for _, id in ipairs(stores) do
    local dtype = k.graph:dtype(id)
    operands[#operands + 1] = { at = k:write(id), strides = own, bytes = k:bytes(dtype), dtype = dtype }
  end
  local placed = place(k, o, operands)
  if not placed then return false end
  local count = #plan.sources
  run(k, plan, o, { unpack(placed, 1, count) }, { unpack(placed, count + 1) }, stores)
  return true
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
