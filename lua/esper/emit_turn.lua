--- Pointwise groups that read one operand across its rows: transposes, with what little is computed beside. Used by the
-- recipe pointwise.
--
-- The output runs along its last axis; the turned operand runs along another axis, `down`. Squares of lanes x lanes
-- elements are loaded along `down` and turned in registers. A tile is a rectangle of both axes at one position of all
-- others; what is left at its edges is a square once more, overlapping the last one.
-- Invariant: squares that overlap store the same values twice, within one tile.

local amount = require "esper.emit_amount"
local chain = require "esper.emit_chain"
local nodes = require "esper.vecmath_nodes"
local stages = require "esper.emit_stage"
local sweep = require "esper.emit_sweep"

local M = {}

local DOWN, ALONG = 64, 256 -- sides of a tile
local NARROW = 32           -- the first side where all rows are multiples of a page apart and fall on few cache sets
local MOST = 4              -- instructions per vector beside the turning: the code is repeated for every row of a square

-- The one source that is turned, and the axis it runs along; nil when there is none, or more.
local function find(k, plan, lists)
  local turned, down
  for i in ipairs(plan.sources) do
    local strides = lists[i]
    local last = k.dims:value(strides[#strides])
    if last ~= 0 and last ~= 1 then
      if turned then return nil end
      turned = i
      for axis = 1, #strides - 1 do
        if k.dims:value(strides[axis]) == 1 then down = axis end
      end
    end
  end
  if down then return turned, down end
end

-- Sizes of the pieces an extent is cut into: smallest and largest that may occur.
local function pieces(k, extent, size)
  local e = k.dims:value(extent)
  if not e then return 1, size end
  if e <= size then return e, e end
  return e % size == 0 and size or e % size, size
end

-- Integers are moved as floats of their width.
local function moved_as(dtype) return ({ i32 = "f32", i64 = "f64" })[dtype] or dtype end

-- ---- the block ----

-- Runs body() with the addresses of `operands` at every `lanes` elements of an axis of `count` (C expression) elements, the
-- last time so that it ends with the axis, and takes the addresses back.
local function squares(s, count, strides, operands, body)
  local b, lanes = s.b, s.b.lanes
  local rest = ("(%s %% %dL)"):format(count, lanes)
  local back = ("(%s ? %s - %dL : 0L)"):format(rest, rest, lanes) -- elements
  local left = b:copy(s:g(("%s / %dL"):format(count, lanes)))
  b:loop(b:const(lanes > 1 and 2 or 1), function()
    b:loop(left, function()
      body()
      for i, operand in ipairs(operands) do s:move(operand, amount.mul(strides[i], lanes)) end
    end)
    if lanes == 1 then return end
    for i, operand in ipairs(operands) do s:move(operand, amount.mul(back, strides[i])) end
    b:g_set(left, s:g(("%s != 0"):format(rest)))
  end)
  for i, operand in ipairs(operands) do
    s:move(operand, amount.mul(lanes > 1 and ("-(%s - %s + 2 * %s + (%s ? %dL : 0))"):format(count, rest, back, rest, lanes)
      or ("-%s"):format(count), strides[i]))
  end
end

-- Addresses of `count` rows from p on, `stride` apart: { at, displacement }.
local function rows(s, p, stride, count)
  local list = {}
  for r = 0, count - 1 do
    if type(stride) == "number" then
      list[r + 1] = { p, r * stride }
    else
      list[r + 1] = { r == 0 and p or s.b:g_add(list[r][1], s:g(stride)), 0 }
    end
  end
  return list
end

-- One square: the turned source's rows lie along `down`, everybody else's along the last axis.
local function square(s, plan, o, turned, stores)
  local b, lanes = s.b, s.b.lanes
  local loaded = {}
  for r, row in ipairs(rows(s, o[turned].at, o[turned].along, lanes)) do loaded[r] = b:load(row[1], row[2]) end
  loaded = b:transpose(loaded)
  local at = {}
  for i, operand in ipairs(o) do
    if i ~= turned then at[i] = rows(s, operand.at, operand.down, lanes) end
  end
  for r = 1, lanes do
    local value = stages.compute(plan, b, plan.stages[1], function(arg)
      local i = arg.source
      if i == turned then return loaded[r] end
      if o[i].along == 0 then return b:bcast(at[i][r][1], at[i][r][2]) end
      return b:load(at[i][r][1], at[i][r][2])
    end)
    for n, id in ipairs(stores) do
      local row = at[#plan.sources + n][r]
      b:store(row[1], value[id], row[2])
    end
  end
end

-- w: ptr, and strides along both axes, of every operand; nj, nl: C names of the rectangle's sides.
local function call(k, plan, w, turned, stores, nj, nl)
  local s
  local block = k:block(function(b)
    s = sweep.new(k, b)
    local o, at, down, along = {}, {}, {}, {}
    for i, operand in ipairs(w) do
      o[i] = { at = s:pointer(operand.ptr), down = amount.of(k, operand.row, operand.bytes),
               along = amount.of(k, operand.step, operand.bytes) }
      at[i], down[i], along[i] = o[i].at, o[i].down, o[i].along
    end
    squares(s, nl, along, at, function()
      squares(s, nj, down, at, function() square(s, plan, o, turned, stores) end)
    end)
  end, moved_as(plan.stages[1].dtype))
  k:call(block, s.words)
end

-- ---- the step ----

local function paged(k, stride, dtype)
  local known = k.dims:value(stride)
  return known and known * k:bytes(dtype) % 4096 == 0
end

-- The tile's rectangle: start and size along both axes, and the address of every operand there.
local function place(k, operands, extents, lists, down, side, tiles)
  local last, at = #extents, k:unravel(tiles, "t")
  local j, nj = k:range(at[down], side, extents[down])
  local l, nl = k:range(at[last], ALONG, extents[last])
  at[down], at[last] = j, l
  local w = {}
  for i, operand in ipairs(operands) do
    local ptr = k:name("q")
    k:line("char *%s = (char *)%s + (%s) * %dL;", ptr, k:atom(operand.at), k:offset(operand.offset, lists[i], at), operand.bytes)
    w[i] = { ptr = ptr, step = lists[i][last], row = lists[i][down], bytes = operand.bytes }
  end
  return w, nj, nl
end

--- Emits the group as a step of its own; false when there is nothing to turn.
function M.emit(k, group)
  if #group.space < 2 then return false end
  local spec = { nodes = group.epilogue, stores = group.outputs }
  local early = chain.plan(k, spec)
  if not early.simple or nodes.casts(k.graph, group.epilogue[1]) then return false end
  local price, dtype = 0, early.stages[1].dtype
  for _, id in ipairs(group.epilogue) do price = price + nodes.cost(k.graph:op(id)) end
  if price > MOST then return false end
  local lists, own = {}, k:contiguous(group.space)
  for i, source in ipairs(early.sources) do lists[i] = source.strides end
  lists[#lists + 1] = own
  local extents
  extents, lists = k:collapse(group.space, lists)
  local turned, down = find(k, early, lists)
  if not turned then return false end
  for _ = 2, #group.outputs do lists[#lists + 1] = lists[#lists] end
  local last, lanes = #extents, k:lanes(dtype)
  local side = paged(k, lists[turned][last], dtype) and paged(k, lists[#lists][down], dtype) and NARROW or DOWN
  local low, high = pieces(k, extents[down], side)
  local low2, high2 = pieces(k, extents[last], ALONG)
  if high < lanes or high2 < lanes then return false end
  local tiles = { unpack(extents) }
  tiles[down], tiles[last] = k:ceildiv(extents[down], side), k:ceildiv(extents[last], ALONG)
  k:step{ tiles = k:product(tiles) }
  k:tiles(function()
    local plan, operands = chain.plan(k, spec), {}
    for i in ipairs(plan.sources) do operands[i] = chain.operand(k, plan, i) end
    for _, id in ipairs(group.outputs) do operands[#operands + 1] = { at = k:write(id), bytes = k:bytes(dtype) } end
    local w, nj, nl = place(k, operands, extents, lists, down, side, tiles)
    if low >= lanes and low2 >= lanes then return call(k, plan, w, turned, group.outputs, nj, nl) end
    k:open("if (%s >= %dL && %s >= %dL)", nj, lanes, nl, lanes)
    call(k, plan, w, turned, group.outputs, nj, nl)
    k:close " else {"
    k.depth = k.depth + 1
    w.n, w.rows = nl, nj
    stages.run(plan, w, group.outputs)
    k:close()
  end)
  return true
end

return M
