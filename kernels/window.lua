--- Windows that slide over planes, one output plane per input plane: what depthwise convolution and pooling share. Over
-- window_patch.lua, which brings what a pass reads into a stack buffer that stays in the first cache.
--
-- A pass computes some lines of some neighbouring planes. Lines go win.rows at a time, so that a vector of pixels that is
-- loaded serves every line whose window it is in; lanes run along the columns. Window lines are written out, window columns
-- too up to WIDEST, else they are a loop.
--
-- win = { dtype; xs, size, out = strides and dims; tap, stride, pad, dilation = pairs; planes = number or dim of them per
--   sample; samples = dim; outside = value of the padding; address = fn(sample, plane) -> C expression of x's plane;
--   op = { start(b, w) -> accumulator, tap(b, acc, x, weight) -> acc, finish(b, acc) -> result }
--   weights = nil or fn(plane) -> C words: address of the taps in order, step to the next plane's, address of the bias, step }

local patch = require "kernels.window_patch"
local planes = require "kernels.planes"

local M = {}

local PLANES, LINES, COLUMNS = 8, 32, 512
local WIDEST, TALLEST, MOST = 3, 11, 32 -- window columns and lines; multiply-adds of one vector written out
local HELD = 9                          -- weights that stay in registers
local RAW_BYTES = 12 * 1024             -- stack buffer of results where no output can hold them

-- ---- the block ----

-- Every input line of `rows` output lines with the taps that read it: { line =, taps = { { row =, kh = }, ... } }.
local function readers(win, rows)
  local lines, by = {}, {}
  for row = 0, rows - 1 do
    for kh = 0, win.tap[1] - 1 do
      local line = row * win.stride[1] + kh * win.dilation[1]
      if not by[line] then
        by[line] = { line = line, taps = {} }
        lines[#lines + 1] = by[line]
      end
      table.insert(by[line].taps, { row = row, kh = kh })
    end
  end
  table.sort(lines, function(a, b) return a.line < b.line end)
  return lines
end

-- The row of the patch, and the element in it, that input line `line` has for window column kw.
local function spot(win, line, kw)
  if win.way == "pairs" then return line * 2 + kw % 2, math.floor(kw / 2) end
  if win.way == "columns" then return line * win.tap[2] + kw, 0 end
  return line, kw * win.dilation[2]
end

local function rows_read(win, lines)
  local seen, list = {}, {}
  for _, line in ipairs(lines) do
    for kw = 0, win.looped and 0 or win.tap[2] - 1 do
      local row = spot(win, line.line, kw)
      if not seen[row] then
        seen[row] = true
        list[#list + 1] = row
      end
    end
  end
  table.sort(list)
  return list
end

-- Rows of the patch from few registers, each of which serves base + step * {0, 1, 2, 4, 8}: place[row] = { base number,
-- far }, and the registers.
local function address_rows(b, start, step, wanted)
  local bases, place, row_of = {}, {}, {}
  for _, row in ipairs(wanted) do
    for i in ipairs(bases) do
      local far = row - row_of[i]
      if not place[row] and (far == 1 or far == 2 or far == 4 or far == 8) then place[row] = { i, far } end
    end
    if not place[row] then
      local i = #bases + 1
      bases[i] = b:g_add(i > 1 and bases[i - 1] or start, b:g_mulk(step, row - (row_of[i - 1] or 0)))
      row_of[i], place[row] = row, { i, 0 }
    end
  end
  return place, bases
end

local function load_row(b, at, step, k, mask)
  if at.far == 0 then return b:load(at.base, k, mask) end
  if mask then return b:load(b:g_add(at.base, b:g_mulk(step, at.far)), k, mask) end
  return b:loadx(at.base, step, at.far, k)
end

-- All taps of window columns 0 .. count - 1 of one vector of columns in every line; the registers in `bases` are at the
-- first of them, `taps` at its weight.
local function add_taps(b, win, w, lines, place, bases, count, taps, acc, mask)
  for _, line in ipairs(lines) do
    for kw = 0, count - 1 do
      local row, k = spot(win, line.line, kw)
      local x = load_row(b, { base = bases[place[row][1]], far = place[row][2] }, w.pitch, k * b.bytes, mask)
      for _, t in ipairs(line.taps) do
        local index = t.kh * win.tap[2] + kw
        local weight = win.weights and (w.held[index] or b:bcast(taps, index * b.bytes))
        b:set(acc[t.row], win.op.tap(b, acc[t.row], x, weight))
      end
    end
  end
end

local function one_vector(b, win, w, lines, place, bases, rows, mask)
  local acc = {}
  for row = 0, rows - 1 do acc[row] = win.op.start(b, w) end
  if not win.looped then
    add_taps(b, win, w, lines, place, bases, win.tap[2], w.taps, acc, mask)
    return acc
  end
  local here, taps = {}, win.weights and b:copy(w.taps)
  for i, base in ipairs(bases) do here[i] = b:copy(base) end
  b:loop(b:const(win.tap[2]), function()
    add_taps(b, win, w, lines, place, here, 1, taps, acc, mask)
    for _, reg in ipairs(here) do b:g_set(reg, b:g_addk(reg, win.dilation[2] * b.bytes)) end
    if taps then b:g_set(taps, b:g_addk(taps, b.bytes)) end
  end)
  return acc
end

-- All columns of `rows` lines whose first window starts at x; results go to `out`.
local function some_lines(b, win, w, rows, x, out)
  local lines = readers(win, rows)
  local place, bases = address_rows(b, x, w.pitch, rows_read(win, lines))
  local to, moving = b:copy(out), { unpack(bases) }
  moving[#moving + 1] = to
  b:each(w.columns, moving, function(mask)
    local acc = one_vector(b, win, w, lines, place, bases, rows, win.way == "in place" and mask or nil)
    local line = rows > 1 and b:copy(to) or to
    for row = 0, rows - 1 do
      b:store(line, win.op.finish(b, acc[row]), 0, mask)
      if row + 1 < rows then b:g_set(line, b:g_add(line, w.out_line)) end
    end
  end)
end

-- Elements of the last vector of a line of pairs: masks of its results, and of the two vectors they come from.
local function pair_masks(b, w)
  w.full = b:g_shrk(w.columns, math.log(b.lanes, 2))
  local left = b:g_sub(w.columns, b:g_mulk(w.full, b.lanes))
  w.tail = { b:m_tail(left), b:m_tail(b:g_add(left, left)), b:m_tail(b:g_addk(b:g_add(left, left), -b.lanes)) }
  w.partial = b:g_shrk(b:g_addk(left, b.lanes - 1), math.log(b.lanes, 2))
end

-- A line of windows of two columns, in place: window lines first, in whole vectors, then even with odd elements.
local function pair_line(b, win, w, x, out)
  local at, to, vector = b:copy(x), b:copy(out), b.lanes * b.bytes
  local function one(masks)
    local low, high, line = win.op.start(b, w), win.op.start(b, w), win.tap[1] > 1 and b:copy(at) or at
    for kh = 1, win.tap[1] do
      low = win.op.tap(b, low, b:load(line, 0, masks[2]))
      high = win.op.tap(b, high, b:load(line, vector, masks[3]))
      if kh < win.tap[1] then b:g_set(line, b:g_add(line, win.dilation[1] == 1 and w.pitch or b:g_mulk(w.pitch, win.dilation[1]))) end
    end
    local even, odd = b:unzip(low, high)
    b:store(to, win.op.finish(b, win.op.tap(b, even, odd)), 0, masks[1])
  end
  b:loop(w.full, function()
    one {}
    b:g_set(at, b:g_addk(at, 2 * vector))
    b:g_set(to, b:g_addk(to, vector))
  end)
  b:loop(w.partial, function() one(w.tail) end)
end

local WORDS = { "planes", "columns", "groups", "rest", "x", "pitch", "group_step", "line_step", "plane_step", "out", "out_line",
  "out_group", "out_plane", "taps", "taps_step", "bias", "bias_step" }

local function one_plane(b, win, w, x, out)
  local line, to = b:copy(x), b:copy(out)
  if win.weights and not win.looped and win.tap[1] * win.tap[2] <= HELD then
    for i = 0, win.tap[1] * win.tap[2] - 1 do w.held[i] = b:bcast(w.taps, i * b.bytes) end
  end
  local function run(count, rows, step, out_step)
    b:loop(count, function()
      if win.paired then pair_line(b, win, w, line, to) else some_lines(b, win, w, rows, line, to) end
      b:g_set(line, b:g_add(line, step))
      b:g_set(to, b:g_add(to, out_step))
    end)
  end
  if win.rows > 1 then run(w.groups, win.rows, w.group_step, w.out_group) end
  run(w.rest, 1, w.line_step, w.out_line)
end

local function window_block(k, win)
  return function(b)
    local w = { held = {} }
    for i, name in ipairs(WORDS) do
      if i <= 13 or win.weights then w[name] = b:arg(i - 1) end
    end
    k:note(b, k.group.anchor)
    if win.paired then pair_masks(b, w) end
    local moved = { x = "plane_step", out = "out_plane" }
    if win.weights then moved.taps, moved.bias = "taps_step", "bias_step" end
    for name in pairs(moved) do w[name] = b:copy(w[name]) end
    b:loop(w.planes, function()
      one_plane(b, win, w, w.x, w.out)
      for _, name in ipairs { "x", "out", "taps", "bias" } do
        if moved[name] then b:g_set(w[name], b:g_add(w[name], w[moved[name]])) end
      end
    end)
  end
end

-- ---- the step ----

--- Can this window be computed here? Sets what else is needed in `win`.
function M.plan(k, win)
  local taps = win.tap[1] * win.tap[2]
  win.most = COLUMNS
  if win.tap[1] > TALLEST or not patch.plan(k, win) then return false end
  win.looped = win.tap[2] > WIDEST and (win.way == "rows" or win.way == "in place")
  local written = win.looped and win.tap[1] or taps
  if written > MOST then return false end
  local single = k.dims:value(win.out[1]) == 1
  win.rows = (single or win.paired) and 1 or (win.stride[1] > 1 or written > HELD) and 2 or 4
  return true
end

-- C locals of tile t.
local function decode(k, win, s)
  k:line("long rest = t / %s, column = t %% %s * %dL;", k:dim(s.column_parts), k:dim(s.column_parts), win.most)
  k:line("long line = rest %% %s * %dL; rest /= %s;", k:dim(s.line_parts), LINES, k:dim(s.line_parts))
  k:line("long plane = rest %% %s * %dL, sample = rest / %s;", k:dim(s.plane_parts), PLANES, k:dim(s.plane_parts))
  local function least(name, from, size, most)
    k:line("long %s = %s - %s < %dL ? %s - %s : %dL;", name, size, from, most, size, from, most)
  end
  least("columns", "column", k:dim(win.out[2]), win.most)
  least("lines", "line", k:dim(win.out[1]), LINES)
  least("planes", "plane", k:dim(win.planes), PLANES)
end

-- C: one pass, planes p .. p + m_planes - 1 and lines at .. at + m_lines - 1.
local function pass(k, win, s)
  local bytes, step = k:bytes(win.dtype), win.stride[1]
  k:line("long begin = ((sample * %s + plane + p) * %s + at) * %s + column;", k:dim(win.planes), k:dim(win.out[1]),
    k:dim(win.out[2]))
  patch.fill(k, win, s.blocks, win.address("sample", "plane + p"))
  local out_line, out_plane = ("%s * %dL"):format(k:dim(win.out[2]), bytes), ("%s * %dL"):format(k:dim(s.plane), bytes)
  if not s.target then out_line, out_plane = ("columns * %dL"):format(bytes), ("m_lines * columns * %dL"):format(bytes) end
  local to = s.target and ("%s + begin * %dL"):format(k:write(s.target), bytes) or ("(char *)%s"):format(s.raw)
  local words = { "m_planes", "columns", win.rows > 1 and ("m_lines / %dL"):format(win.rows) or "0L",
    win.rows > 1 and ("m_lines %% %dL"):format(win.rows) or "m_lines", "patch", ("pitch * %dL"):format(bytes),
    ("span * %dL"):format(win.rows * step * bytes), ("span * %dL"):format(step * bytes), "plane_step", to, out_line,
    ("%s * %dL"):format(out_line, win.rows), out_plane }
  for _, word in ipairs(win.weights and win.weights("plane + p") or {}) do words[#words + 1] = word end
  k:call(s.block, words)
  planes.finish(k, { target = s.target, raw = ("(char *)%s"):format(s.raw), raw_plane = "(m_lines * columns)", start = "begin",
    planes = "m_planes", lines = "m_lines", columns = "columns", width = win.out[2], plane = s.plane })
end

--- The step that computes all windows; after M.plan has said yes. above: it does nothing for lines of up to so many columns.
function M.emit(k, win, above)
  local s = { target = planes.target(k), plane = k.dims:mul(win.out[1], win.out[2]) }
  s.column_parts, s.line_parts = k:ceildiv(win.out[2], win.most), k:ceildiv(win.out[1], LINES)
  s.plane_parts = k:ceildiv(win.planes, PLANES)
  s.block = k:block(window_block(k, win), win.dtype)
  k:step { tiles = k:product { win.samples, s.plane_parts, s.line_parts, s.column_parts } }
  if above then k:line("if (%s <= %dL) return;", k:dim(win.out[2]), above) end
  s.blocks = patch.blocks(k, win)
  local room = math.floor(RAW_BYTES / k:bytes(win.dtype))
  s.raw = not s.target and k:buffer(win.dtype, room)
  k:tiles(function()
    decode(k, win, s)
    patch.sizes(k, win)
    if s.raw then
      k:line("some_planes = 1;")
      k:line("if (some_lines > %dL / columns) some_lines = %dL / columns;", room, room)
    end
    k:open("for (long p = 0; p < planes; p += some_planes)")
    k:line("long m_planes = planes - p < some_planes ? planes - p : some_planes;")
    k:open("for (long done = 0; done < lines; done += some_lines)")
    k:line("long m_lines = lines - done < some_lines ? lines - done : some_lines, at = line + done;")
    pass(k, win, s)
    k:close()
    k:close()
  end)
end

return M
