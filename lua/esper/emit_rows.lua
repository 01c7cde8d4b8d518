--- Loops over strided spaces: collapsing of axes, and the walk of a linear range in runs. Used by
-- emit.lua.
--
-- A space is an array of extents (dims) visited in row-major order; an operand is a base address
-- and one stride per axis. Adjacent axes that every operand steps through as if they were one
-- become one, so most walks are one run.
-- Invariant: a walk touches exactly elements start .. start + n - 1, whatever the extents, none
-- when n <= 0; coordinates are found by division once per walk and incremented afterwards.

local M = {}

-- Whether axes i and i + 1 (extent e) are one axis for every stride list.
local function mergeable(D, lists, i, e)
  for _, strides in ipairs(lists) do
    if strides[i] ~= D:mul(strides[i + 1], e) then return false end
  end
  return true
end

function M.collapse(D, extents, lists)
  local out, out_lists = {}, {}
  for l in ipairs(lists) do out_lists[l] = {} end
  for axis = #extents, 1, -1 do
    if D:value(extents[axis]) ~= 1 then
      table.insert(out, 1, extents[axis])
      for l, strides in ipairs(lists) do table.insert(out_lists[l], 1, strides[axis]) end
      if out[2] and mergeable(D, out_lists, 1, out[2]) then
        out[1] = D:mul(out[1], table.remove(out, 2))
        for _, strides in ipairs(out_lists) do table.remove(strides, 1) end
      end
    end
  end
  if #out == 0 then
    out[1] = D:const(1)
    for _, strides in ipairs(out_lists) do strides[1] = D:const(0) end
  end
  return out, out_lists
end

-- Declares coordinate locals of linear index `pos`; the outermost needs no modulo.
function M.unravel(k, extents, pos)
  local at, rest = {}, k:name("rest")
  k:line("long %s = %s;", rest, pos)
  for axis = #extents, 1, -1 do
    at[axis] = k:name("c")
    if axis == 1 then
      k:line("long %s = %s;", at[axis], rest)
    else
      local e = k:dim(extents[axis])
      k:line("long %s = %s %% %s; %s /= %s;", at[axis], rest, e, rest, e)
    end
  end
  return at
end

-- Moves the coordinates on by n elements, which end at most at the end of the innermost axis.
local function advance(k, extents, at, n)
  local last = #extents
  k:line("%s += %s;", at[last], n)
  for axis = last, 2, -1 do
    k:open("if (%s >= %s)", at[axis], k:dim(extents[axis]))
    k:line("%s = 0; %s++;", at[axis], at[axis - 1])
  end
  for _ = 2, last do k:close() end
end

-- The addresses (or element indices) of all operands at these coordinates.
local function addresses(k, operands, lists, at, w)
  for i, operand in ipairs(operands) do
    local ptr, offset = k:name("q"), k:offset(operand.offset, lists[i], at)
    if operand.minus then offset = offset .. " - " .. k:atom(operand.minus) end
    if operand.index then
      k:line("long %s = %s;", ptr, offset)
    elseif offset == "0L" then
      k:line("char *%s = (char *)%s;", ptr, k:atom(operand.at))
    else
      k:line("char *%s = (char *)%s + %s * %dL;", ptr, k:atom(operand.at), k:atom(offset), operand.bytes)
    end
    w[i] = { ptr = ptr, step = lists[i][#lists[i]], row = lists[i][#lists[i] - 1] }
  end
end

-- Declares w.n, the run's elements, and with options.rows w.rows: how many whole rows of them follow. `aligned`: no run
-- begins or ends inside a row, so that w.n is known when the row is.
local function measure(k, options, extents, at, w, stop)
  local last, n = #extents, w.n
  if last == 1 or not options.rows then
    k:line("long %s = %s - %s;", n, stop, w.pos)
    if last > 1 then
      local e = k:dim(extents[last])
      k:line("if (%s > %s - %s) %s = %s - %s;", n, e, at[last], n, e, at[last])
    end
    if options.piece then k:line("if (%s > %dL) %s = %dL;", n, options.piece, n, options.piece) end
    return
  end
  local e, above, rows = k:dim(extents[last]), k:dim(extents[last - 1]), w.rows
  k:line("long %s = %s - %s, %s = %s - %s;", n, stop, w.pos, rows, above, at[last - 1])
  if w.aligned then
    k:line("%s /= %s;", n, e)
    k:line("if (%s > %s) %s = %s;", rows, n, rows, n)
    return
  end
  k:open("if (%s == 0 && %s >= %s)", at[last], n, e)
  k:line("if (%s > %s / %s) %s = %s / %s;", rows, n, e, rows, n, e)
  k:line("%s = %s;", n, e)
  k:close " else {"
  k.depth = k.depth + 1
  k:line("%s = 1;", rows)
  k:line("if (%s > %s - %s) %s = %s - %s;", n, e, at[last], n, e, at[last])
  k:close()
end

-- Moves position and coordinates behind the run.
local function pass_over(k, options, extents, at, w)
  local last = #extents
  if last == 1 or not options.rows then
    k:line("%s += %s;", w.pos, w.n)
    if last > 1 then advance(k, extents, at, w.n) end
    return
  end
  k:line("%s += %s * %s;", w.pos, w.aligned and k:dim(extents[last]) or w.n, w.rows)
  if not w.aligned then
    k:line("%s += %s;", at[last], w.n)
    k:open("if (%s >= %s)", at[last], k:dim(extents[last]))
    k:line("%s = 0;", at[last])
  end
  advance(k, { unpack(extents, 1, last - 1) }, at, w.rows)
  if not w.aligned then k:close() end
end

-- Runs the walk's body at the present position, `n` elements of which were declared.
local function visit(k, options, lists, at, w)
  addresses(k, options.operands, lists, at, w)
  options.body(w)
end

-- More than one run: coordinates at[axis] follow the position.
local function visit_all(k, options, extents, lists, w, stop)
  local at = #extents == 1 and { w.pos } or M.unravel(k, extents, w.pos)
  k:open("while (%s < %s)", w.pos, stop)
  measure(k, options, extents, at, w, stop)
  visit(k, options, lists, at, w)
  pass_over(k, options, extents, at, w)
  k:close()
end

function M.walk(k, options)
  local given, D = {}, k.dims
  for i, operand in ipairs(options.operands) do given[i] = operand.strides end
  local extents, lists = M.collapse(D, options.extents, given)
  local w = { n = k:name("n"), pos = k:name("pos") }
  local whole, row = D:value(extents[1]), D:value(extents[#extents])
  if options.rows and #extents > 1 then
    w.rows, w.extent = k:name("rows"), row
    w.aligned = options.unit and row and options.unit % row == 0
  end
  k:open("if (%s > 0)", options.n)
  k:line("long %s = %s;", w.pos, options.start)
  if #extents == 1 and (not options.piece or whole and whole <= options.piece) then
    k:line("long %s = %s;", w.n, options.n)
    visit(k, options, lists, { w.pos }, w)
  else
    local stop = k:name("stop")
    k:line("long %s = %s + %s;", stop, w.pos, options.n)
    visit_all(k, options, extents, lists, w, stop)
  end
  k:close()
end

return M
